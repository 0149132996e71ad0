// What is opened, as what, and what is refused. The formats are texts (tests/support/text_images.hpp).
#include "engine/block/open_chain.hpp"

#include "tests/support/run_task.hpp"
#include "tests/support/text_images.hpp"

#include <gtest/gtest.h>

namespace weir {
namespace {

layer_model layer_at(std::string path, std::string format) {
  layer_model model;
  model.source.path = std::move(path);
  model.format = std::move(format);
  return model;
}

class open_chain_test : public testing::Test {
 protected:
  /// "cow /t <- raw /b", or the failure; everything is closed again.
  std::string open(const disk_model& disk, open_chain_options options = {}) {
    const storage_opener opener = world_.opener();
    auto opened = test::run(io_, open_chain(disk, test::text_formats(), opener, options));
    if (!opened) {
      EXPECT_EQ(world_.open_count, 0) << "a failure leaves nothing open";
      return opened.error().what;
    }
    std::string text;
    for (const auto& each : *opened) {
      if (!text.empty()) text += " <- ";
      text += each->model.format + " " + describe(each->model.source);
    }
    last_ = completed_model(disk, *opened);
    EXPECT_EQ(world_.open_count, static_cast<int>(opened->size()));
    const result<void> closed = test::run(io_, close_layers(*opened));
    EXPECT_TRUE(closed);
    EXPECT_EQ(world_.open_count, 0);
    return text;
  }

  std::string open_top(const std::string& path, const std::string& format, bool terminated = false) {
    disk_model disk;
    disk.layers.push_back(layer_at(path, format));
    disk.terminated = terminated;
    return open(disk);
  }

  boost::asio::io_context io_;
  test::text_world world_;
  disk_model last_;
};

TEST_F(open_chain_test, follows_headers_to_the_base) {
  world_.file("/d/t", "COW1 m|cow");
  world_.file("/d/m", "COW1 ../e/b|raw");
  world_.file("/d/../e/b", "data");
  EXPECT_EQ(open_top("/d/t", "cow"), "cow /d/t <- cow /d/m <- raw /d/../e/b");
  EXPECT_EQ(world_.opened_writable, std::set<std::string>{"/d/t"}) << "backing layers are read-only";
  EXPECT_TRUE(last_.terminated);
  EXPECT_EQ(last_.layers[2].recorded_name, "../e/b");
  EXPECT_EQ(last_.layers[0].index, 1U);
  EXPECT_EQ(last_.layers[2].index, 3U);
  EXPECT_TRUE(last_.layers[2].index_invented);
}

TEST_F(open_chain_test, a_terminator_hides_the_header) {
  world_.file("/t", "COW1 /b|raw");
  EXPECT_EQ(open_top("/t", "cow", true), "cow /t");
}

TEST_F(open_chain_test, a_list_that_stops_goes_on_in_the_last_header) {
  world_.file("/t", "COW1 /elsewhere|raw");
  world_.file("/m", "COW1 /b|raw");
  world_.file("/b", "data");
  disk_model disk;
  disk.layers = {layer_at("/t", "cow"), layer_at("/m", "cow")};
  EXPECT_EQ(open(disk), "cow /t <- cow /m <- raw /b") << "the list beats the header";
  EXPECT_EQ(last_.layers[1].recorded_name, "");
  disk.layers[1].recorded_name.clear();
  world_.file("/t", "COW1 m|cow");
  EXPECT_EQ(open(disk), "cow /t <- cow /m <- raw /b");
  EXPECT_EQ(last_.layers[1].recorded_name, "m") << "the header names the listed layer";
}

TEST_F(open_chain_test, the_active_layer_without_a_format_is_raw_unless_the_user_named_it) {
  world_.file("/t", "COW1 /b|raw");
  world_.file("/b", "data");
  EXPECT_EQ(open_top("/t", ""), "raw /t");
  disk_model disk;
  disk.layers.push_back(layer_at("/t", ""));
  EXPECT_EQ(open(disk, {.probe_active = true}), "cow /t <- raw /b");
  disk.layers[0].format = "raw";
  EXPECT_EQ(open(disk, {.probe_active = true}), "raw /t") << "raw is never probed where it is declared";
}

TEST_F(open_chain_test, recorded_raw_is_never_probed) {
  world_.file("/t", "COW1 /b|raw");
  world_.file("/b", "COW1 /etc/shadow|raw");
  EXPECT_EQ(open_top("/t", "cow"), "cow /t <- raw /b");
  EXPECT_EQ(world_.opened, (std::vector<std::string>{"/t", "/b"}));
}

TEST_F(open_chain_test, a_recorded_format_that_the_content_is_not_fails) {
  world_.file("/t", "COW1 /b|cow");
  world_.file("/b", "data");
  EXPECT_EQ(open_top("/t", "cow"), "/b: not a cow image, backing image of /t");
  EXPECT_EQ(open_top("/b", "cow"), "/b: not a cow image");
}

TEST_F(open_chain_test, an_unrecorded_format_is_accepted_only_for_a_leaf) {
  world_.file("/t", "COW1 /b");
  world_.file("/b", "data");
  EXPECT_EQ(open_top("/t", "cow"), "cow /t <- raw /b");
  world_.file("/b", "COW1 ");
  EXPECT_EQ(open_top("/t", "cow"), "cow /t <- cow /b");
  world_.file("/b", "COW1 /etc/shadow|raw");
  world_.file("/etc/shadow", "secret");
  world_.opened.clear();
  EXPECT_NE(open_top("/t", "cow").find("/b: its format is not recorded"), std::string::npos);
  EXPECT_EQ(world_.opened, (std::vector<std::string>{"/t", "/b"}))
      << "what a guest may have named is not touched";
  world_.file("/u", "COW1 /t|cow");
  world_.file("/b", "COW1 ");
  EXPECT_EQ(open_top("/u", "cow"), "cow /u <- cow /t <- cow /b") << "recorded above, a leaf below";
}

TEST_F(open_chain_test, an_overlay_that_states_raw_may_have_its_backing_probed) {
  world_.file("/t", "QD01 /m");
  world_.file("/m", "COW1 /b|raw");
  world_.file("/b", "data");
  EXPECT_EQ(open_top("/t", "qd"), "qd /t <- cow /m <- raw /b");
  world_.file("/m", "COW1 /b");
  EXPECT_EQ(open_top("/t", "qd"), "qd /t <- cow /m <- raw /b");
  world_.file("/b", "COW1 /x|raw");
  EXPECT_NE(open_top("/t", "qd").find("not recorded"), std::string::npos)
      << "the cow image below states nothing";
}

TEST_F(open_chain_test, a_listed_layer_without_a_format_is_probed_like_an_unrecorded_one) {
  world_.file("/t", "COW1 ");
  world_.file("/b", "COW1 /x|raw");
  disk_model disk;
  disk.layers = {layer_at("/t", "cow"), layer_at("/b", "")};
  disk.terminated = true;
  EXPECT_NE(open(disk).find("not recorded"), std::string::npos);
  world_.file("/b", "data");
  EXPECT_EQ(open(disk), "cow /t <- raw /b");
}

TEST_F(open_chain_test, missing_images_are_named_with_their_overlay) {
  world_.file("/t", "COW1 b|raw");
  EXPECT_EQ(open_top("/t", "cow"), "/b: No such file or directory, backing image of /t");
  EXPECT_EQ(open_top("/nothing", "cow"), "/nothing: No such file or directory");
}

TEST_F(open_chain_test, loops_are_found_by_identity) {
  world_.file("/t", "COW1 t|cow");
  EXPECT_NE(open_top("/t", "cow").find("loops"), std::string::npos);
  world_.file("/a", "COW1 /b|cow");
  world_.file("/b", "COW1 /link|cow");
  world_.alias("/link", "/a");
  EXPECT_EQ(open_top("/a", "cow"), "/link: the chain loops: this file is in it already, backing image of /b");
}

TEST_F(open_chain_test, slices_of_one_file_are_no_loop) {
  world_.file("/f", "COW1 /f|rawCOW1 |raw.data..");
  disk_model disk;
  disk.layers = {layer_at("/f", "cow"), layer_at("/f", "raw")};
  disk.layers[0].slice = storage_slice{0, 12};
  disk.layers[1].slice = storage_slice{12, 0};
  disk.terminated = true;
  EXPECT_EQ(open(disk), "cow /f <- raw /f");
  disk.layers[1].slice = storage_slice{11, 4};
  EXPECT_NE(open(disk).find("loops"), std::string::npos);
  disk.layers[1].slice = storage_slice{12, 1000};
  EXPECT_NE(open(disk).find("slice"), std::string::npos);
  disk.layers[1].slice = storage_slice{~std::uint64_t{0}, ~std::uint64_t{0}};
  EXPECT_NE(open(disk).find("slice"), std::string::npos);
}

TEST_F(open_chain_test, two_hundred_images_are_the_limit) {
  for (int i = 0; i < 200; ++i)
    world_.file("/" + std::to_string(i), "COW1 /" + std::to_string(i + 1) + "|cow");
  world_.file("/200", "COW1 ");
  EXPECT_EQ(open_top("/0", "cow").substr(0, 37), "/200: the chain has more than 200 ima");
  world_.file("/199", "COW1 ");
  EXPECT_EQ(open_top("/0", "cow").substr(0, 18), "cow /0 <- cow /1 <");
  EXPECT_EQ(last_.layers.size(), 200U);
}

TEST_F(open_chain_test, network_names_in_headers_need_permission) {
  world_.file("/t", "COW1 nbd://h:1/e|raw");
  world_.file("nbd://h:1/e", "data");
  EXPECT_NE(open_top("/t", "cow").find("nbd://h:1/e: named in an image's header; --allow-remote-backing"),
            std::string::npos);
  EXPECT_EQ(world_.opened, std::vector<std::string>{"/t"});
  disk_model disk;
  disk.layers.push_back(layer_at("/t", "cow"));
  EXPECT_EQ(open(disk, {.allow_remote_backing = true}), "cow /t <- raw nbd://h:1/e");
  world_.file("/t", "COW1 nbd://u:p@h:1/e|raw");
  EXPECT_NE(open(disk, {.allow_remote_backing = true}).find("credentials"), std::string::npos);
  disk.layers.push_back(layer_at("", "raw"));
  disk.layers[1].source = {.type = "network",
                           .path = "",
                           .fd_group = "",
                           .protocol = "nbd",
                           .name = "e",
                           .hosts = {{.name = "h", .port = "1", .transport = "", .socket = ""}},
                           .query = "",
                           .tls = false,
                           .details = {},
                           .unsupported = ""};
  EXPECT_EQ(open(disk), "cow /t <- raw nbd://h:1/e") << "the description is trusted";
}

TEST_F(open_chain_test, what_is_not_supported_is_refused_by_name) {
  world_.file("/t", "COW1 rbd:p/i|raw");
  disk_model disk;
  disk.layers.push_back(layer_at("/t", "cow"));
  EXPECT_EQ(open(disk, {.allow_remote_backing = true}),
            "rbd:p/i: protocol rbd is not supported, backing image of /t");
  world_.file("/t", "COW1 fat:/dir");
  EXPECT_EQ(open(disk), "/dir: storage of type dir is not supported, backing image of /t");
  world_.file("/t", "COW1 a:b|raw");
  EXPECT_EQ(open(disk),
            "a:b: unknown protocol 'a'; a file of that name is written './a:b', backing image of /t");
  world_.file("/t", "COW1 ");
  disk.layers[0].source.unsupported = "<encryption>";
  EXPECT_EQ(open(disk), "/t: <encryption> is not supported");
  disk.layers[0].source.unsupported.clear();
  disk.layers[0].data_store.push_back(layer_at("/data", "raw"));
  EXPECT_EQ(open(disk), "/t: a data file is described for it, but its header has none");
  EXPECT_EQ(open_top("/t", "vmdk"), "/t: format vmdk is not supported");
}

TEST_F(open_chain_test, raw_has_no_backing_image) {
  world_.file("/t", "data");
  world_.file("/b", "data");
  disk_model disk;
  disk.layers = {layer_at("/t", "raw"), layer_at("/b", "raw")};
  EXPECT_EQ(open(disk), "/b: a raw image has no backing image, backing image of /t");
}

TEST_F(open_chain_test, disks_that_cannot_be_honoured) {
  world_.file("/t", "data");
  disk_model disk;
  disk.target = "vda";
  EXPECT_EQ(open(disk), "vda: no medium");
  disk.layers.push_back(layer_at("/t", "raw"));
  disk.transient = true;
  EXPECT_EQ(open(disk), "vda: transient disks are not supported");
  EXPECT_EQ(open(disk, {.read_only = true}), "raw /t");
  EXPECT_TRUE(world_.opened_writable.empty());
  disk.transient = false;
  disk.shareable = true;
  EXPECT_EQ(open(disk), "vda: shareable disks are only opened read-only");
}

TEST_F(open_chain_test, numbers_go_on_from_disk_to_disk) {
  world_.file("/t", "data");
  disk_model disk;
  disk.layers.push_back(layer_at("/t", "raw"));
  EXPECT_EQ(open(disk, {.first_index = 7}), "raw /t");
  EXPECT_EQ(last_.layers[0].index, 7U);
  disk.layers[0].index = 3;
  EXPECT_EQ(open(disk, {.first_index = 7}), "raw /t");
  EXPECT_EQ(last_.layers[0].index, 3U);
  EXPECT_FALSE(last_.layers[0].index_invented);
}

}  // namespace
}  // namespace weir
