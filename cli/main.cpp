#include "cli/help.hpp"
#include "cli/plain_line.hpp"
#include "cli/verbs.hpp"

#include <cerrno>
#include <csignal>
#include <cstdio>
#include <exception>
#include <fstream>
#include <string>
#include <vector>

namespace weir::cli {
namespace {

void print(const std::string& text) {
  std::fwrite(text.data(), 1, text.size(), stdout);
}

int complain(std::string_view subject, std::string_view what) {
  std::fprintf(stderr, "weir: %s: %s\n", plain_line(subject).c_str(), plain_line(what).c_str());
  return exit_usage;
}

bool write_page(const std::string& directory, const std::string& name, const std::string& page) {
  std::ofstream file(directory + "/" + name + ".1");
  file << page;
  file.close();
  return file.good();
}

/// Every man page into `directory`, for the build to install.
int write_man_pages(const std::string& directory) {
  bool written = write_page(directory, "weir", man_page(verbs()));
  for (const verb& each : verbs()) {
    written = write_page(directory, "weir-" + std::string(each.name), man_page(each)) && written;
  }
  if (written) return exit_done;
  complain("help", directory + ": cannot be written to");
  return exit_failed;
}

int show_help(std::span<const std::string> words) {
  if (words.size() == 2 && words.front() == "--man-pages") return write_man_pages(words.back());
  const bool man = !words.empty() && words.front() == "--man";
  if (man) words = words.subspan(1);
  if (words.size() > 1) return complain("help", "one verb at a time; see weir help");
  if (words.empty()) {
    print(man ? man_page(verbs()) : overview(verbs()));
    return exit_done;
  }
  const verb* about = find_verb(words.front());
  if (about == nullptr) return complain("help", "unknown verb '" + words.front() + "'; see weir help");
  print(man ? man_page(*about) : help_text(*about));
  return exit_done;
}

/// Trouble that no verb knows of gets the exit code that trouble has there.
outcome<int> run_guarded(const verb& chosen, const given_options& given) {
  try {
    outcome<int> answer = chosen.run(given);
    const bool told = std::fflush(stdout) == 0 && std::ferror(stdout) == 0;
    if (answer.has_value() && !told) return failure{errno_code(EIO), "standard output: cannot be written"};
    return answer;
  } catch (const std::exception& broken) {
    return failure{errno_code(EIO), "internal error: " + std::string(broken.what())};
  }
}

int run_verb(const verb& chosen, std::span<const std::string> words) {
  option_set options;
  chosen.declare(options);
  options.flag("help", "Show this text.");
  auto given = options.parse(words);
  if (given.has_value() && given->has("help")) {
    print(help_text(chosen));
    return exit_done;
  }
  outcome<int> answer = given.has_value() ? run_guarded(chosen, *given) : outcome<int>(given.error());
  if (answer.has_value()) return *answer;
  if (is_usage(answer.error())) {
    complain(chosen.name, answer.error().what + "; see weir help " + std::string(chosen.name));
    return chosen.wrong_usage;
  }
  complain(chosen.name, answer.error().what);
  return chosen.failed;
}

int run(std::span<const std::string> words) {
  if (words.empty()) {
    std::fputs(overview(verbs()).c_str(), stderr);
    return exit_usage;
  }
  const std::string& first = words.front();
  if (first == "--version" || first == "-V") {
    print("weir " + std::string(version) + "\n");
    return exit_done;
  }
  if (first == "help" || first == "--help" || first == "-h") return show_help(words.subspan(1));
  const verb* chosen = find_verb(first);
  if (chosen == nullptr) return complain(first, "unknown verb; see weir help");
  return run_verb(*chosen, words.subspan(1));
}

}  // namespace
}  // namespace weir::cli

int main(int count, char** words) {
  std::signal(SIGPIPE, SIG_IGN);
  const std::vector<std::string> given(words + 1, words + count);
  const int code = weir::cli::run(given);
  if (std::fflush(stdout) == 0 || code != weir::cli::exit_done) return code;
  std::fputs("weir: standard output: cannot be written\n", stderr);
  return weir::cli::exit_failed;
}
