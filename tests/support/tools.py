"""Running the tools around the tests."""
import os
import shutil
import subprocess


class ToolError(Exception):
    """A tool or the guest did not do what it was asked; the text says which and why."""


def run(*command, expected=(0,), piped=None, **options):
    """Runs a tool to its end and returns what it printed; an exit code not expected shows its words. `piped` is what
    it reads."""
    options.update({"stdin": subprocess.DEVNULL} if piped is None else {"input": piped})
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                          text=True, errors="replace", **options)
    if done.returncode not in expected:
        raise ToolError(f"{' '.join(map(str, command))}: exit {done.returncode}\n{done.stdout}")
    return done.stdout


def system_tool(name):
    """e2fsprogs live in sbin, which is not on every user's PATH."""
    found = shutil.which(name, path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin")
    if not found:
        raise ToolError(f"{name} is missing: run scripts/setup")
    return found
