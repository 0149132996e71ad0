// Edits touch what they must and nothing else.
#include "tests/unit/xml_documents.hpp"

namespace weir {
namespace {

using test::chain_text;
using test::domain;
using test::parsed;

const std::string live_disk = R"(    <disk type='file' device='disk' w:odd="1" xmlns:w='urn:w'>
      <!-- why -->
      <driver name='qemu' type='qcow2' cache='none'/>
      <source file='/v/top' index='1'>
        <seclabel model='dac' relabel='no'/>
      </source>
      <backingStore type='file' index='2'>
        <format type='qcow2'>
          <metadata_cache><max_size unit='bytes'>65536</max_size></metadata_cache>
        </format>
        <source file='/v/mid'/>
        <backingStore type='file' index='5'>
          <format type='raw'/>
          <source file='/v/base'/>
          <backingStore/>
        </backingStore>
      </backingStore>
      <target dev='vda' bus='virtio'/>
      <serial>a&lt;b</serial><w:x>text</w:x>
    </disk>
)";

layer_model file_layer(const std::string& format, const std::string& path) {
  layer_model layer;
  layer.format = format;
  layer.source.path = path;
  return layer;
}

/// `text` with the first `from` replaced.
std::string replaced(std::string text, const std::string& from, const std::string& to) {
  const std::size_t at = text.find(from);
  EXPECT_NE(at, std::string::npos) << from;
  return at == std::string::npos ? text : text.replace(at, from.size(), to);
}

TEST(xml_write, an_untouched_document_keeps_every_byte) {
  for (const std::string& text :
       {domain(live_disk),
        std::string("\xEF\xBB\xBF<domain\n  a=\"1\"  b='2' ><x></x><y />&#65;<![CDATA[ <z> ]]>\r\n<?pi x?>"
                    "<devices><disk ><source\tfile=\"/x\"></source><target dev='hda' "
                    "/></disk></devices></domain >\n\n"),
        std::string("<disk><source file='/x'/></disk>")}) {
    EXPECT_EQ(parsed(text).write(), text);
  }
}

TEST(xml_write, inactive_has_neither_indexes_nor_mirror) {
  const std::string text = domain(live_disk);
  std::string expected = replaced(text, " index='1'", "");
  expected = replaced(replaced(expected, " index='2'", ""), " index='5'", "");
  EXPECT_EQ(parsed(text).write(xml_view::inactive), replaced(expected, R"(w:odd="1")", "w:odd='1'"));
  const std::string plain = domain("    <disk ><source file=\"/x\" ></source><target dev='vda'/></disk>\n");
  EXPECT_EQ(parsed(plain).write(xml_view::inactive), plain) << "nothing to strip: untouched";
}

TEST(xml_write, a_pull_leaves_a_terminator) {
  auto document = parsed(domain(live_disk));
  const std::vector<layer_model> layers{document.disks()[0].layers[0]};
  document.set_chain(0, layers, true);
  EXPECT_EQ(chain_text(document.disks()[0]), "qcow2 /v/top <- end");
  EXPECT_EQ(document.disks()[0].layers[0].index, 1U);
  const std::string text = document.write();
  EXPECT_NE(text.find("      </source>\n      <backingStore/>\n      <target dev='vda' bus='virtio'/>\n"
                      "      <serial>a&lt;b</serial><w:x>text</w:x>\n    </disk>\n"),
            std::string::npos)
      << text;
  EXPECT_NE(text.find("<!-- why -->"), std::string::npos);
  EXPECT_NE(text.find("<seclabel model='dac' relabel='no'/>"), std::string::npos);
}

TEST(xml_write, a_commit_drops_a_middle_layer_and_keeps_the_rest) {
  auto document = parsed(domain(live_disk));
  std::vector<layer_model> layers = document.disks()[0].layers;
  layers.erase(layers.begin() + 1);
  document.set_chain(0, layers, true);
  const std::string text = document.write();
  EXPECT_NE(text.find("      <backingStore type='file' index='5'>\n        <format type='raw'/>\n"
                      "        <source file='/v/base'/>\n        <backingStore/>\n      </backingStore>\n"),
            std::string::npos)
      << text;
}

TEST(xml_write, dropping_the_base_keeps_what_stood_beside_the_format) {
  auto document = parsed(domain(live_disk));
  std::vector<layer_model> layers = document.disks()[0].layers;
  layers.pop_back();
  document.set_chain(0, layers, true);
  EXPECT_NE(document.write().find("<max_size unit='bytes'>65536</max_size>"), std::string::npos);
}

TEST(xml_write, a_pivot_replaces_the_head_and_its_format) {
  auto document = parsed(domain(live_disk));
  document.set_mirror(
      0, mirror_model{
             .job = "copy", .ready = "yes", .layers = {file_layer("qed", "/v/new")}, .terminated = true});
  document.set_chain(0, document.disks()[0].mirror->layers, true);
  document.set_mirror(0, std::nullopt);
  const std::string text = document.write();
  EXPECT_EQ(chain_text(document.disks()[0]), "qed /v/new <- end");
  EXPECT_EQ(text.find("mirror"), std::string::npos);
  EXPECT_NE(text.find("<driver name='qemu' type='qed' cache='none'/>\n      <source file='/v/new'/>\n      "
                      "<backingStore/>\n"),
            std::string::npos)
      << text;
}

TEST(xml_write, an_active_commit_moves_a_layers_subtree_to_the_head) {
  auto document = parsed(replaced(
      domain(live_disk), "<source file='/v/base'/>",
      "<source file='/v/base'><slices><slice type='storage' offset='1' size='2'/></slices></source>"));
  document.set_chain(0, {document.disks()[0].layers[2]}, true);
  const std::string text = document.write();
  EXPECT_NE(text.find("<driver name='qemu' type='raw' cache='none'/>"), std::string::npos);
  EXPECT_NE(text.find("      <source file='/v/base' index='5'>\n        <slices>\n          <slice "
                      "type='storage' offset='1' size='2'/>\n"),
            std::string::npos)
      << text;
}

TEST(xml_write, a_snapshot_pushes_a_head) {
  auto document = parsed(domain(live_disk));
  std::vector<layer_model> layers = document.disks()[0].layers;
  layer_model head = file_layer("qcow2", "/v/snap");
  head.index = 6;
  layers.insert(layers.begin(), head);
  document.set_chain(0, layers, true);
  const std::string text = document.write();
  EXPECT_NE(text.find("      <source file='/v/snap' index='6'/>\n      <backingStore type='file' index='1'>\n"
                      "        <format type='qcow2'/>\n        <source file='/v/top'>\n          <seclabel "
                      "model='dac' relabel='no'/>\n"),
            std::string::npos)
      << text;
}

TEST(xml_write, a_mirror_is_written_for_both_generations_of_readers) {
  auto document = parsed(domain(live_disk));
  mirror_model mirror{.job = "copy",
                      .ready = "",
                      .layers = {file_layer("qcow2", "/v/new"), document.disks()[0].layers[2]},
                      .terminated = true};
  mirror.layers[0].index = 7;
  mirror.layers[1].index = 8;
  document.set_mirror(0, mirror);
  EXPECT_NE(document.write().find("      <mirror type='file' file='/v/new' format='qcow2' job='copy'>\n      "
                                  "  <format type='qcow2'/>\n"
                                  "        <source file='/v/new' index='7'/>\n        <backingStore "
                                  "type='file' index='8'>\n          <format type='raw'/>\n"
                                  "          <source file='/v/base'/>\n          <backingStore/>\n        "
                                  "</backingStore>\n      </mirror>\n      <target "),
            std::string::npos)
      << document.write();
  mirror.ready = "yes";
  document.set_mirror(0, mirror);
  EXPECT_NE(document.write().find("job='copy' ready='yes'>"), std::string::npos);
  mirror_model commit{
      .job = "active-commit", .ready = "", .layers = {document.disks()[0].layers[2]}, .terminated = false};
  document.set_mirror(0, commit);
  EXPECT_NE(document.write().find("<mirror type='file' job='active-commit'>\n        <format type='raw'/>\n"
                                  "        <source file='/v/base' index='5'/>\n      </mirror>"),
            std::string::npos)
      << document.write();
  document.set_mirror(0, std::nullopt);
  EXPECT_EQ(replaced(document.write(), "w:odd='1'", R"(w:odd="1")"), domain(live_disk))
      << "and leaves no trace";
}

TEST(xml_write, old_spellings_become_modern_when_the_chain_is_written) {
  for (const char* inside :
       {"<backingFile><source file='/m' format='qcow2'/><source file='/b' format='raw'/></backingFile>",
        "<backing file='/m' format='qcow2'/><backing file='/b' format='raw'/>",
        "<backingFile><driver name='qemu' type='qcow2'/><source file='/m'/><backingFile><driver type='raw'/>"
        "<source file='/b'/></backingFile></backingFile>"}) {
    auto document = parsed(std::string("<disk><driver type='qcow2'/><source file='/t'/>") + inside +
                           "<target dev='vda'/></disk>");
    document.set_chain(0, document.disks()[0].layers, true);
    EXPECT_EQ(document.write(),
              "<disk><driver type='qcow2'/><source file='/t'/><backingStore type='file'><format "
              "type='qcow2'/><source file='/m'/>"
              "<backingStore type='file'><format type='raw'/><source "
              "file='/b'/><backingStore/></backingStore></backingStore>"
              "<target dev='vda'/></disk>");
  }
}

TEST(xml_write, a_missing_driver_is_added_only_where_it_is_needed) {
  auto document = parsed("<disk><source file='/t'/></disk>");
  document.set_chain(0, document.disks()[0].layers, true);
  EXPECT_EQ(document.write(), "<disk><source file='/t'/><backingStore/></disk>");
  document.set_chain(0, {file_layer("qcow2", "/n")}, true);
  EXPECT_EQ(document.write(),
            "<disk type='file'><driver name='qemu' type='qcow2'/><source file='/n'/><backingStore/></disk>");
}

TEST(xml_write, other_disks_keep_their_bytes) {
  const std::string other =
      "    <disk  type=\"file\" ><source file=\"/o\"></source><target dev='vdb' /></disk>\n";
  auto document = parsed(domain(other + live_disk));
  document.set_chain(1, {document.disks()[1].layers[0]}, true);
  EXPECT_NE(document.write().find(other), std::string::npos);
}

TEST(xml_write, every_source_survives_being_generated) {
  for (const char* source :
       {"<disk type='network'><source protocol='nbd' name='e' tls='yes' tlsHostname='t'><host name='::1' "
        "port='1'/></source></disk>",
        "<disk type='network'><source protocol='nbd'><host transport='unix' socket='/s'/></source></disk>",
        "<disk type='network'><source protocol='rbd' name='p/i'><host name='a' port='6789'/><host "
        "name='b'/><snapshot name='s'/>"
        "<config file='/c'/></source></disk>",
        "<disk type='network'><source protocol='iscsi' name='iqn/1'><host name='h'/><initiator><iqn "
        "name='x'/></initiator></source></disk>",
        "<disk type='network'><source protocol='https' name='f' query='a=b&amp;c'><host name='h'/><ssl "
        "verify='no'/><readahead size='1'/>"
        "<timeout seconds='2'/></source></disk>",
        "<disk type='network'><source protocol='nfs' name='/f'><host name='h'/><identity user='+1' "
        "group='+2'/></source></disk>",
        "<disk type='network'><source protocol='gluster' name='v/f'><host name='a' transport='rdma'/><host "
        "name='b'/></source></disk>",
        "<disk type='volume'><source pool='p' volume='v' mode='direct'/></disk>",
        "<disk type='nvme'><source type='pci' namespace='1'><address domain='0x0000' bus='0x01' slot='0x00' "
        "function='0x0'/></source></disk>",
        "<disk type='block'><source dev='/dev/x'><slices><slice type='storage' offset='0' "
        "size='7'/></slices></source></disk>",
        "<disk type='dir'><source dir='/d'/></disk>",
        "<disk type='vhostuser'><source type='unix' path='/s'/></disk>",
        "<disk type='file'><source file='/x&apos;&quot;&amp;&lt; y' fdgroup='3'><dataStore "
        "type='file'><format type='raw'/><source file='/d'/>"
        "</dataStore></source></disk>"}) {
    const auto original = parsed(source).disks().at(0).layers;
    auto document = parsed("<disk><source file='/placeholder'/></disk>");
    document.set_chain(0, original, false);
    const auto again = parsed(document.write());
    ASSERT_EQ(again.disks().size(), 1U);
    EXPECT_EQ(again.disks()[0].layers, original) << document.write();
    document.set_chain(0, {file_layer("qcow2", "/t"), original.at(0)}, true);
    EXPECT_EQ(parsed(document.write()).disks()[0].layers.at(1), original.at(0)) << document.write();
  }
}

TEST(xml_write, disks_are_found_by_target_and_by_path) {
  const auto document = parsed(domain(live_disk + "<disk><source file='/o'/><target dev='vdb'/></disk>"
                                                  "<disk><source file='/o'/><target dev='vdc'/></disk>"));
  EXPECT_EQ(document.find_disk("vdb"), 1U);
  EXPECT_EQ(document.find_disk("/v/top"), 0U);
  EXPECT_EQ(document.find_disk("/o"), std::nullopt) << "two disks have it";
  EXPECT_EQ(document.find_disk("vdz"), std::nullopt);
  EXPECT_EQ(document.find_disk(""), std::nullopt);
}

}  // namespace
}  // namespace weir
