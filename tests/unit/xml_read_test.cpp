// Every spelling of a chain becomes the same model.
#include "tests/unit/xml_documents.hpp"

namespace weir {
namespace {

using test::chain_text;
using test::domain;
using test::parsed;
using test::refusal;

/// A bare <disk> with qcow2 /t on top, no target, and `inside`.
std::string disk(const std::string& inside) {
  return "<disk type='file'><driver name='qemu' type='qcow2'/><source file='/t'/>" + inside + "</disk>";
}

std::string chain_of(const std::string& inside) {
  return chain_text(parsed(disk(inside)).disks().at(0));
}

TEST(xml_read, three_states_of_a_chain) {
  EXPECT_EQ(chain_of(""), "qcow2 /t <- ?");
  EXPECT_EQ(chain_of("<backingStore/>"), "qcow2 /t <- end");
  EXPECT_EQ(chain_of("<backingStore><format type='raw'/></backingStore>"), "qcow2 /t <- end")
      << "no type: a terminator";
  EXPECT_EQ(chain_of("<backingStore type='file'><format type='raw'/><source file='/b'/></backingStore>"),
            "qcow2 /t <- raw /b <- ?");
  EXPECT_EQ(chain_of("<backingStore type='block'><backingStore/><source dev='/dev/b'/><format "
                     "type='qed'/></backingStore>"),
            "qcow2 /t <- qed /dev/b <- end")
      << "children in any order";
}

TEST(xml_read, the_spellings_of_2012) {
  EXPECT_EQ(chain_of("<backingFile/>"), "qcow2 /t <- end") << "S1";
  EXPECT_EQ(chain_of("<backingFile><source file='/b' format='raw'/></backingFile>"),
            "qcow2 /t <- raw /b <- ?")
      << "S2";
  EXPECT_EQ(chain_of("<backingFile><source dev='/b'/></backingFile>"), "qcow2 /t <- ? /b <- ?")
      << "S2, unrecorded";
  EXPECT_EQ(
      chain_of(
          "<backingFile><source file='/m' format='qcow2'/><source file='/b' format='raw'/></backingFile>"),
      "qcow2 /t <- qcow2 /m <- raw /b <- end")
      << "S3";
  EXPECT_EQ(chain_of("<backingFile><driver name='qemu' type='qed'/><source file='/m'/>"
                     "<backingFile><driver type='raw'/><source file='/b'/></backingFile></backingFile>"),
            "qcow2 /t <- qed /m <- raw /b <- ?")
      << "S4";
  EXPECT_EQ(chain_of("<backingFile><driver type='raw'/><source file='/b'/><backingFile/></backingFile>"),
            "qcow2 /t <- raw /b <- end")
      << "S4 with S1";
  EXPECT_EQ(
      chain_of("<backing file='/m' format='qcow2'/><target dev='vda'/><backing dev='/b' format='raw'/>"),
      "qcow2 /t <- qcow2 /m <- raw /b <- end")
      << "S5";
}

std::string mirror_of(const std::string& inside) {
  const auto document = parsed(disk(inside));
  const auto& mirror = document.disks().at(0).mirror;
  if (!mirror) return "none";
  return mirror->job + " " + mirror->ready + ": " + chain_text(mirror->layers, mirror->terminated);
}

TEST(xml_read, mirrors) {
  EXPECT_EQ(mirror_of("<mirror><driver type='qed'/><source file='/n'/><backingFile><driver "
                      "type='raw'/><source file='/b'/>"
                      "</backingFile></mirror>"),
            "copy : qed /n <- raw /b <- ?")
      << "S6";
  EXPECT_EQ(mirror_of("<mirror><source file='/n' format='qed'/><backing file='/b' format='raw'/></mirror>"),
            "copy : qed /n <- raw /b <- end")
      << "S7";
  EXPECT_EQ(mirror_of("<mirror file='/n'/>"), "copy : raw /n <- ?") << "S8, never probed";
  EXPECT_EQ(mirror_of("<mirror file='/n' format='qcow2' ready='yes'/>"), "copy yes: qcow2 /n <- ?") << "S8";
  EXPECT_EQ(
      mirror_of("<mirror type='file' file='/old' format='raw' job='copy' ready='yes'><format type='qcow2'/>"
                "<source file='/n'/><backingStore/></mirror>"),
      "copy yes: qcow2 /n <- end")
      << "the children win";
  EXPECT_EQ(
      mirror_of("<mirror type='block' job='active-commit'><format type='raw'/><source dev='/b'/></mirror>"),
      "active-commit : raw /b <- ?");
  EXPECT_NE(refusal(disk("<mirror file='/n' job='active-commit'/>")), "accepted");
  EXPECT_NE(refusal(disk("<mirror file='/n' ready='no'/>")), "accepted");
  EXPECT_NE(refusal(disk("<mirror file='/n' job='pull'/>")), "accepted");
  EXPECT_NE(refusal(disk("<mirror/>")), "accepted");
  EXPECT_NE(refusal(disk("<mirror type='file'><format type='raw'/></mirror>")), "accepted");
}

TEST(xml_read, one_family_of_spellings_per_disk) {
  EXPECT_NE(refusal(disk("<backingStore/><backingFile/>")), "accepted");
  EXPECT_NE(refusal(disk("<backingStore/><backing file='/b'/>")), "accepted");
  EXPECT_NE(
      refusal(disk("<backingStore/><mirror><source file='/n' format='raw'/><backing file='/b'/></mirror>")),
      "accepted");
  EXPECT_NE(refusal(disk("<backingStore/><backingStore/>")), "accepted");
  EXPECT_NE(refusal(disk("<backingFile/><backingFile/>")), "accepted");
  EXPECT_NE(
      refusal(disk(
          "<backingFile><source file='/a' format='raw'/></backingFile><backing file='/b' format='raw'/>")),
      "accepted");
  EXPECT_EQ(
      refusal(disk(
          "<backingFile><source file='/b' format='raw'/></backingFile><backing file='/b' format='raw'/>")),
      "accepted")
      << "they agree";
}

TEST(xml_read, backing_stores_libvirt_refuses) {
  EXPECT_NE(refusal(disk("<backingStore type='file'><source file='/b'/></backingStore>")), "accepted");
  EXPECT_NE(refusal(disk("<backingStore type='file'><format type='raw'/></backingStore>")), "accepted");
  EXPECT_NE(refusal(disk("<backingStore type='tape'><format type='raw'/><source file='/b'/></backingStore>")),
            "accepted");
  EXPECT_NE(
      refusal(disk("<backingStore type='file'><format type='blob'/><source file='/b'/></backingStore>")),
      "accepted");
  EXPECT_NE(refusal(disk("<backingStore type='file'><format type='raw'/><source/></backingStore>")),
            "accepted");
}

TEST(xml_read, the_driver) {
  const auto document = parsed(
      "<disk><driver type='aio' cache='none' io='native' discard='unmap' detect_zeroes='on' "
      "copy_on_read='on'/>"
      "<source file='/t'/></disk>");
  const disk_model& model = document.disks().at(0);
  EXPECT_EQ(model.layers.at(0).format, "raw");
  EXPECT_EQ(model.cache, "none");
  EXPECT_EQ(model.io, "native");
  EXPECT_TRUE(model.discard_unmap);
  EXPECT_EQ(model.detect_zeroes, "on");
  EXPECT_TRUE(model.copy_on_read);
  EXPECT_EQ(parsed("<disk><source file='/t'/></disk>").disks().at(0).layers.at(0).format, "raw")
      << "never probed";
  for (const char* bad :
       {"<driver type='zip'/>", "<driver io='native'/>", "<driver rerror_policy='enospace'/>",
        "<driver cache='maybe'/>", "<driver copy_on_read='on'/><readonly/>", "<driver/><driver/>"}) {
    EXPECT_NE(refusal(std::string("<disk><source file='/t'/>") + bad + "</disk>"), "accepted") << bad;
  }
}

TEST(xml_read, drives_without_a_medium) {
  const auto document =
      parsed(domain("<disk device='cdrom'><target dev='sda'/></disk>"
                    "<disk device='floppy' type='file'><source file=''/><target dev='fda'/></disk>"));
  ASSERT_EQ(document.disks().size(), 2U);
  EXPECT_TRUE(document.disks()[0].layers.empty());
  EXPECT_TRUE(document.disks()[0].readonly);
  EXPECT_TRUE(document.disks()[1].layers.empty());
  EXPECT_NE(refusal(domain("<disk><target dev='vda'/></disk>")), "accepted");
  EXPECT_NE(refusal(domain("<disk><source file='/x'/></disk>")), "accepted") << "no target";
  EXPECT_NE(refusal(domain("<disk><source file='/x'/><target dev='vda'/></disk><disk><source "
                           "file='/y'/><target dev='vda'/></disk>")),
            "accepted");
}

TEST(xml_read, roots) {
  const std::string inner =
      "<domain><devices><disk><source file='/x'/><target dev='vda'/></disk></devices></domain>";
  EXPECT_EQ(parsed("<domstatus>" + inner + "</domstatus>").disks().size(), 1U);
  EXPECT_EQ(parsed("<domainsnapshot><disks><disk name='vda'/></disks>" + inner + "</domainsnapshot>")
                .disks()
                .size(),
            1U);
  EXPECT_EQ(parsed("<domaincheckpoint>" + inner + "</domaincheckpoint>").disks().size(), 1U);
  EXPECT_EQ(parsed("<domain/>").disks().size(), 0U);
  EXPECT_NE(refusal("<pool/>"), "accepted");
  EXPECT_NE(refusal(""), "accepted");
}

TEST(xml_read, network_sources_everywhere) {
  const std::vector<std::pair<std::string, std::string>> sources{
      {"<source protocol='nbd'><host name='h' port='1'/></source>", "nbd://h:1/"},
      {"<source protocol='nbd' name='e' tls='yes'><host name='::1'/></source>", "nbds://[::1]/e"},
      {"<source protocol='nbd' name='e'><host transport='unix' socket='/s'/></source>",
       "nbd+unix:///e?socket=/s"},
      {"<source protocol='rbd' name='p/i'><snapshot name='s'/></source>", "rbd:p/i@s"},
      {"<source protocol='iscsi' name='iqn/1'><host name='h'/></source>", "iscsi://h/iqn/1"},
      {"<source protocol='https' name='f' query='a=b'><host name='h'/></source>", "https://h/f?a=b"},
      {"<source protocol='ssh' name='f'><host name='h' port='22'/></source>", "ssh://h:22/f"},
      {"<source protocol='nfs' name='/f'><host name='h'/></source>", "nfs://h//f"},
      {"<source protocol='gluster' name='v/f'><host name='a'/><host name='b' transport='rdma'/></source>",
       "gluster://a/v/f"}};
  for (const auto& [source, location] : sources) {
    const auto document =
        parsed("<disk type='network'>" + source + "<backingStore type='network'><format type='raw'/>" +
               source + "</backingStore><mirror type='network' job='copy'><format type='raw'/>" + source +
               "</mirror></disk>");
    const disk_model& model = document.disks().at(0);
    EXPECT_EQ(describe(model.layers.at(0).source), location);
    EXPECT_EQ(model.layers.at(1).source, model.layers.at(0).source);
    EXPECT_EQ(model.mirror.value().layers.at(0).source, model.layers.at(0).source);
    const auto old =
        parsed("<disk type='network'>" + source + "<backingFile type='network'><driver type='raw'/>" +
               source + "</backingFile></disk>");
    EXPECT_EQ(old.disks().at(0).layers.at(1).source, model.layers.at(0).source);
  }
}

TEST(xml_read, network_sources_libvirt_refuses) {
  for (const char* bad :
       {"<source name='x'/>", "<source protocol='gopher' name='x'/>", "<source protocol='rbd' name='x'/>",
        "<source protocol='gluster' name='x'><host name='h'/></source>",
        "<source protocol='iscsi' name='x'/>",
        "<source protocol='nfs' name='/x'><host name='h' port='2049'/></source>",
        "<source protocol='http'><host name='h'/></source>",
        "<source protocol='nbd'><host transport='unix'/></source>",
        "<source protocol='nbd'><host name='h' socket='/s'/></source>",
        "<source protocol='nbd'><host/></source>",
        "<source protocol='nbd'><host name='h' port='-1'/></source>",
        "<source protocol='nbd'><host name='h' port='65536'/></source>",
        "<source protocol='nbd'><host name='h' port=' 1'/></source>",
        "<source protocol='nbd'><host name='a'/><host name='b'/></source>",
        "<source protocol='nbd' tls='maybe'/>"}) {
    EXPECT_NE(refusal(std::string("<disk type='network'>") + bad + "</disk>"), "accepted") << bad;
  }
}

TEST(xml_read, other_sources) {
  const auto nvme = parsed(
      "<disk type='nvme'><source type='pci' namespace='1'><address domain='0x0000' bus='0x01' slot='0x00' "
      "function='0x0'/></source></disk>");
  EXPECT_EQ(describe(nvme.disks().at(0).layers.at(0).source), "nvme namespace=1 address=0000:01:00.0");
  const auto volume = parsed("<disk type='volume'><source pool='p' volume='v'/></disk>");
  EXPECT_EQ(describe(volume.disks().at(0).layers.at(0).source), "volume pool=p volume=v");
  const auto group = parsed("<disk type='file'><source file='/label' fdgroup='7'/></disk>");
  EXPECT_EQ(group.disks().at(0).layers.at(0).source.fd_group, "7");
  const auto slice = parsed(
      "<disk><source file='/x'><slices><slice type='storage' offset='512' "
      "size='1024'/></slices></source></disk>");
  EXPECT_EQ(slice.disks().at(0).layers.at(0).slice, (storage_slice{512, 1024}));
  const auto store = parsed(
      "<disk><driver type='qcow2'/><source file='/x'><dataStore type='block'><format type='raw'/>"
      "<source dev='/dev/d'/></dataStore></source></disk>");
  EXPECT_EQ(store.disks().at(0).layers.at(0).data_store.at(0).source.path, "/dev/d");
  for (const char* bad :
       {"<disk type='nvme'><source type='pci' namespace='0'><address/></source></disk>",
        "<disk type='volume'><source pool='p'/></disk>", "<disk type='tape'><source file='/x'/></disk>",
        "<disk><source file='/x'/><source file='/y'/></disk>",
        "<disk><source file='/x'><slices><slice type='storage' offset='0'/></slices></source></disk>",
        "<disk><source file='/x'><slices><slice type='storage' offset='+1' "
        "size='1'/></slices></source></disk>",
        "<disk><source file='/x'><slices><slice type='storage' offset='99999999999999999999' "
        "size='1'/></slices></source></disk>"}) {
    EXPECT_NE(refusal(bad), "accepted") << bad;
  }
}

TEST(xml_read, what_must_not_be_ignored_is_noted) {
  for (const char* inside : {"<encryption format='luks'/>", "<auth username='u'/>"}) {
    const std::string name = std::string(inside).substr(1, 4);
    const auto in_source = parsed(std::string("<disk><source file='/x'>") + inside + "</source></disk>");
    EXPECT_NE(in_source.disks().at(0).layers.at(0).source.unsupported.find(name), std::string::npos);
    const auto old_place = parsed(std::string("<disk><source file='/x'/>") + inside + "</disk>");
    EXPECT_NE(old_place.disks().at(0).layers.at(0).source.unsupported.find(name), std::string::npos);
    EXPECT_NE(refusal(std::string("<disk>") + inside + "<source file='/x'>" + inside + "</source></disk>"),
              "accepted");
  }
}

TEST(xml_read, cookies_of_web_sources_are_read) {
  const auto with = [](const std::string& cookies, const char* protocol = "https") {
    return std::string("<disk type='network'><source protocol='") + protocol +
           "' name='f'><host name='h'/><cookies>" + cookies + "</cookies></source></disk>";
  };
  const auto document = parsed(with("<cookie name='a'>b</cookie><cookie name='c'>\"d=e\"</cookie>"));
  const layer_source& source = document.disks().at(0).layers.at(0).source;
  EXPECT_EQ(source.secrets.cookies, "a=b; c=\"d=e\"");
  EXPECT_EQ(source.unsupported, "");
  const auto other = parsed(with("<cookie name='a'>b</cookie>", "ssh"));
  EXPECT_EQ(other.disks().at(0).layers.at(0).source.unsupported, "<cookies>");
  for (const char* bad : {"<cookie name='a'>secret;x</cookie>", "<cookie>secret</cookie>",
                          "<cookie name='a=b'>secret</cookie>", "<cookie name='a'>secret\r\nX: y</cookie>"}) {
    EXPECT_NE(refusal(with(bad)), "accepted") << bad;
    EXPECT_EQ(refusal(with(bad)).find("secret"), std::string::npos);
  }
}

TEST(xml_read, indexes_are_names) {
  const auto document = parsed(
      "<disk><driver type='qcow2'/><source file='/t' index='4'/><backingStore type='file' index='9'>"
      "<format type='raw'/><source file='/b'/><backingStore/></backingStore></disk>");
  EXPECT_EQ(document.disks().at(0).layers.at(0).index, 4U);
  EXPECT_EQ(document.disks().at(0).layers.at(1).index, 9U);
}

TEST(xml_read, failures_name_file_line_column_and_disk) {
  EXPECT_EQ(
      refusal("<domain>\n  <devices>\n    <disk>\n      <source file='/x'/>\n      <target dev='vda'/>\n"
              "      <mirror file='/n' ready='no'/>\n    </disk>\n  </devices>\n</domain>"),
      "test.xml:6:7: disk 'vda': <mirror ready='no'>: unknown value");
  EXPECT_EQ(refusal("<domain>\n  <devices>\n </domain>").substr(0, 11), "test.xml:3:");
}

TEST(xml_read, two_hundred_layers_are_the_limit) {
  const auto chain = [](int below) {
    std::string text = "<disk><driver type='qcow2'/><source file='/t'/>";
    for (int i = 0; i < below; ++i)
      text += "<backingStore type='file'><format type='qcow2'/><source file='/b'/>";
    for (int i = 0; i < below; ++i) text += "</backingStore>";
    return text + "</disk>";
  };
  EXPECT_EQ(parsed(chain(199)).disks().at(0).layers.size(), 200U);
  EXPECT_NE(refusal(chain(200)), "accepted");
}

}  // namespace
}  // namespace weir
