// How backing names are understood, form by form. The expected readings are libvirt's.
#include "engine/block/backing_name.hpp"

#include <gtest/gtest.h>

#include <random>

namespace weir {
namespace {

layer_source file_at(std::string path) {
  layer_source source;
  source.path = std::move(path);
  return source;
}

outcome<parsed_backing> parse(std::string_view text) {
  return parse_backing_string(text, file_at("/img/top.qcow2"));
}

/// The reading in short: TYPE LOCATION, or what is wrong.
std::string reading(std::string_view text) {
  const auto parsed = parse(text);
  if (!parsed) return "refused";
  std::string line = parsed->source.type + " " + describe(parsed->source);
  if (parsed->slice) {
    line += " [" + std::to_string(parsed->slice->offset) + "+" + std::to_string(parsed->slice->size) + "]";
  }
  if (parsed->incomplete) line += " incomplete";
  return line;
}

TEST(backing_name, paths) {
  EXPECT_EQ(reading("/a/b"), "file /a/b");
  EXPECT_EQ(reading("base"), "file /img/base");
  EXPECT_EQ(reading("../x/base"), "file /img/../x/base");
  EXPECT_EQ(reading("./a:b"), "file /img/./a:b");
  EXPECT_EQ(reading("d/a:b"), "file /img/d/a:b");
  EXPECT_EQ(reading("a:b"), "refused");
  EXPECT_EQ(reading(""), "refused");
  EXPECT_EQ(reading(std::string_view("a\0b", 3)), "refused");
  EXPECT_EQ(reading("/with space,comma'quote\"%41"), "file /with space,comma'quote\"%41");
}

TEST(backing_name, the_refusal_of_a_colon_says_how_to_write_it) {
  const auto parsed = parse("a:b");
  ASSERT_FALSE(parsed);
  EXPECT_EQ(parsed.error().what, "a:b: unknown protocol 'a'; a file of that name is written './a:b'");
}

TEST(backing_name, relative_to_what_the_parent_was_opened_by) {
  EXPECT_EQ(parse_backing_string("b", file_at("top"))->source.path, "b");
  EXPECT_EQ(parse_backing_string("b", file_at("/top"))->source.path, "/b");
  EXPECT_EQ(parse_backing_string("b", file_at("d/top"))->source.path, "d/b");
  EXPECT_EQ(parse_backing_string("b", layer_source{})->source.path, "b");
  EXPECT_FALSE(parse_backing_string("b", file_at("fd:7")));
  EXPECT_EQ(parse_backing_string("/b", file_at("fd:7"))->source.path, "/b");
  layer_source volume;
  volume.type = "volume";
  EXPECT_FALSE(parse_backing_string("b", volume));
}

TEST(backing_name, relative_to_a_network_parent) {
  const layer_source parent = parse("nbd://h:1/dir/top")->source;
  const auto parsed = parse_backing_string("base", parent);
  ASSERT_TRUE(parsed);
  EXPECT_EQ(parsed->source.name, "dir/base");
  EXPECT_EQ(parsed->source.hosts, parent.hosts);
}

TEST(backing_name, a_header_never_names_a_descriptor) {
  EXPECT_EQ(reading("fd:3"), "refused");
  EXPECT_EQ(reading(R"(json:{"driver":"file","filename":"fd:3"})"), "file ./fd:3");
  EXPECT_EQ(parse_backing_string("file:fd:3", file_at("top"))->source.path.substr(0, 2), "./");
  EXPECT_EQ(parse_image_name("fd:3")->source.path, "fd:3");
  EXPECT_FALSE(parse_image_name("fd:"));
  EXPECT_FALSE(parse_image_name("fd:-1"));
  EXPECT_FALSE(parse_image_name("fd:99999999999"));
}

TEST(backing_name, file_and_fat) {
  EXPECT_EQ(reading("file:/p"), "file /p");
  EXPECT_EQ(reading("file:///p"), "file /p");
  EXPECT_EQ(reading("file:p"), "file /img/p");
  EXPECT_EQ(reading("file://host/p"), "refused");
  EXPECT_EQ(reading("file:"), "refused");
  EXPECT_EQ(reading("fat:/dir"), "dir /dir");
  EXPECT_EQ(parse("fat:/dir")->format, "fat");
}

TEST(backing_name, nbd_uris) {
  EXPECT_EQ(reading("nbd://h"), "network nbd://h/");
  EXPECT_EQ(reading("nbd://h/"), "network nbd://h/");
  EXPECT_EQ(reading("nbd://h:1234/exp"), "network nbd://h:1234/exp");
  EXPECT_EQ(reading("nbd+tcp://h:6000/blah"), "network nbd://h:6000/blah");
  EXPECT_EQ(reading("nbds://h/exp"), "network nbds://h/exp");
  EXPECT_EQ(reading("nbd://[::1]:1/e"), "network nbd://[::1]:1/e");
  EXPECT_EQ(parse("nbd://[::1]:1/e")->source.hosts.at(0).name, "::1");
  EXPECT_EQ(reading("nbd:///exp"), "refused");
  EXPECT_EQ(reading("nbd://h:0/"), "refused");
  EXPECT_EQ(reading("nbd://h:65536/"), "refused");
  EXPECT_EQ(reading("nbd://h:1x/"), "refused");
  EXPECT_EQ(reading("nbd://[::1/"), "refused");
  EXPECT_EQ(reading("nbd://u:p@h/e"), "network nbd://h/e incomplete");
}

TEST(backing_name, exactly_one_slash_is_dropped_from_a_unix_export) {
  for (const auto& [text, name] :
       std::vector<std::pair<std::string, std::string>>{{"nbd+unix://?socket=/s", ""},
                                                        {"nbd+unix:///?socket=/s", ""},
                                                        {"nbd+unix:////?socket=/s", "/"},
                                                        {"nbd+unix:///exp?socket=/s", "exp"},
                                                        {"nbd+unix:////exp?socket=/s", "/exp"},
                                                        {"nbd+unix:///a%20b?x=1&socket=%2Fs", "a b"}}) {
    const auto parsed = parse(text);
    ASSERT_TRUE(parsed) << text;
    EXPECT_EQ(parsed->source.name, name) << text;
    EXPECT_EQ(parsed->source.hosts.at(0).socket, "/s") << text;
  }
  EXPECT_EQ(reading("nbd+unix:///exp"), "refused");
  EXPECT_EQ(reading("nbd+unix://h/exp?socket=/s"), "refused");
  EXPECT_EQ(reading("nbd://h/exp?socket=/s"), "refused");
  EXPECT_EQ(reading("nbd+unix:///e?socket=%zz"), "refused");
  EXPECT_EQ(reading("nbd+unix:///e%00?socket=/s"), "refused");
  EXPECT_EQ(reading("nbd+pigeon://h/e"), "refused");
}

TEST(backing_name, nbd_colon_forms) {
  EXPECT_EQ(reading("nbd:example.org:6000:exportname=blah"), "network nbd://example.org:6000/blah");
  EXPECT_EQ(parse("nbd:h:6000:exportname=:")->source.name, ":");
  EXPECT_EQ(parse("nbd:h:6000:exportname=a:exportname=b")->source.name, "a:exportname=b");
  EXPECT_EQ(parse("nbd:h:6000:exportname=x://y")->source.name, "x://y");
  EXPECT_EQ(parse("nbd:[::1]:6000:exportname=:t")->source.hosts.at(0).name, "::1");
  EXPECT_EQ(parse("nbd:unix:/tmp/sock:")->source.hosts.at(0).socket, "/tmp/sock:");
  EXPECT_EQ(parse("nbd:unix:/tmp/sock::exportname=:")->source.hosts.at(0).socket, "/tmp/sock:");
  EXPECT_EQ(parse("nbd:unix:/tmp/sock::exportname=:")->source.name, ":");
  for (const char* bad : {"nbd:", "nbd:unix:", "nbd:h", "nbd:h:", "nbd::10809", "nbd:h:port", "nbd:[::1]",
                          "nbd:[]:1", "nbd:exportname=x", "nbd:h:1:2", "nbd:h:0", "nbd:h:+1"}) {
    EXPECT_EQ(reading(bad), "refused") << bad;
  }
}

TEST(backing_name, rbd_colon_forms) {
  EXPECT_EQ(reading("rbd:pool/img@snap"), "network rbd:pool/img@snap");
  const auto parsed = parse("rbd:testshare:id=asdf:mon_host=a\\:6789\\;b\\:1:conf=/etc/c");
  ASSERT_TRUE(parsed);
  EXPECT_EQ(parsed->source.name, "testshare");
  ASSERT_EQ(parsed->source.hosts.size(), 2U);
  EXPECT_EQ(parsed->source.hosts[0].port, "6789");
  EXPECT_EQ(parsed->source.hosts[1].name, "b");
  EXPECT_EQ(parsed->source.details.at(0).second, "/etc/c");
  EXPECT_FALSE(parsed->incomplete);
  EXPECT_EQ(reading("rbd:"), "refused");
  EXPECT_EQ(reading("rbd:img:mon_host=a\\:x"), "refused");
}

TEST(backing_name, other_uris) {
  EXPECT_EQ(reading("http://example.com"), "network http://example.com/");
  EXPECT_EQ(reading("https://h/f%5fx?a=b&c=d"), "network https://h/f_x?a=b&c=d");
  EXPECT_EQ(parse("https://h/f?a=b&c=d")->source.query, "a=b&c=d");
  EXPECT_EQ(reading("http://user:pass@example.com/file"), "network http://example.com/file incomplete");
  EXPECT_EQ(reading("gluster://h/vol/file"), "network gluster://h/vol/file");
  EXPECT_EQ(reading("gluster://h/vol"), "refused");
  EXPECT_EQ(reading("iscsi://u:p@h:1/iqn/1"), "network iscsi://h:1/iqn/1 incomplete");
  EXPECT_EQ(reading("://"), "refused");
  EXPECT_EQ(reading("gopher://h/x"), "refused");
}

TEST(backing_name, credentials_are_the_users_own_and_never_shown) {
  const auto named = parse_image_name("https://us%20er:p%3Aw@h/f");
  ASSERT_TRUE(named);
  EXPECT_EQ(named->source.secrets.user, "us er");
  EXPECT_EQ(named->source.secrets.password, "p:w");
  EXPECT_EQ(describe(named->source), "https://h/f");
  const auto with_cookie = parse_image_name(R"(json:{"driver":"http","url":"http://h/f","cookie":"a=b"})");
  ASSERT_TRUE(with_cookie);
  EXPECT_EQ(with_cookie->source.secrets.cookies, "a=b");
  EXPECT_EQ(reading(R"(json:{"driver":"http","url":"http://h/f","cookie":"a=b"})"),
            "network http://h/f incomplete")
      << "of no use in a header";
  EXPECT_FALSE(
      parse_image_name("json:{\"driver\":\"http\",\"url\":\"http://h/f\",\"cookie\":\"a=b\\r\\nX:y\"}"));
  for (const char* bad : {"https://u:secret@h:99999/f", "https://u:sec/ret@h/f", "https://u:%zzsecret@h/f",
                          "ssh://u:secret@h/f", "nbd://u:secret@h/f"}) {
    const auto refused = parse_image_name(bad);
    ASSERT_FALSE(refused) << bad;
    EXPECT_EQ(refused.error().what.find("sec"), std::string::npos) << refused.error().what;
  }
}

TEST(backing_name, json_files) {
  EXPECT_EQ(reading(R"(json:{"driver":"file","filename":"/p"})"), "file /p");
  EXPECT_EQ(reading(R"(json: {"file.driver":"file","file.filename":"/p"})"), "file /p");
  EXPECT_EQ(reading(R"(json:{"file":{"driver":"host_device","filename":"/dev/x"}})"), "block /dev/x");
  EXPECT_EQ(reading(R"(json:{"driver":"file","filename":"rel"})"), "file rel")
      << "never joined to the parent";
  EXPECT_EQ(
      reading(
          R"(json:{"driver":"raw","offset":10752,"size":"4063232","file":{"driver":"file","filename":"/p"}})"),
      "file /p [10752+4063232]");
  EXPECT_EQ(reading(R"(json:{"file":{"driver":"raw","file.driver":"file","file.filename":"/p"}})"),
            "file /p");
  for (const char* bad :
       {"json:", "json:x", "json:{}", "json:[]", "json:{\"0\":1}", R"(json:{"driver":"blah"})",
        R"(json:{"file.driver":"file"})", R"(json:{"file.driver":"file","filename":"/p"})",
        R"(json:{"driver":"file","filename":""})",
        R"(json:{"driver":"qcow2","file":{"driver":"file","filename":"/p"}})",
        R"(json:{"driver":"raw","file":{"driver":"raw","file":{"driver":"file","filename":"/p"}}})",
        R"(json:{"driver":"raw","offset":-1,"file":{"driver":"file","filename":"/p"}})",
        R"(json:{"driver":"raw","size":"1x","file":{"driver":"file","filename":"/p"}})",
        R"(json:{"driver":"file","filename":"/p","filename.x":"y"})",
        R"(json:{"driver":"file","filename":7})"}) {
    EXPECT_EQ(reading(bad), "refused") << bad;
  }
}

TEST(backing_name, json_nbd) {
  EXPECT_EQ(
      reading(R"(json:{"driver":"nbd","server":{"type":"inet","host":"h","port":"6000"},"export":"e"})"),
      "network nbd://h:6000/e");
  EXPECT_EQ(reading(R"(json:{"driver":"nbd","server.type":"unix","server.path":"/s"})"),
            "network nbd+unix:///?socket=/s");
  EXPECT_EQ(reading(R"(json:{"file.driver":"nbd","file.path":"/s"})"), "network nbd+unix:///?socket=/s");
  EXPECT_EQ(reading(R"(json:{"driver":"nbd","host":"h","port":10809})"), "network nbd://h:10809/");
  for (const char* bad :
       {R"(json:{"driver":"nbd"})", R"(json:{"driver":"nbd","server":{"type":"vsock"}})",
        R"(json:{"driver":"nbd","server":{"type":"inet","port":"1"}})",
        R"(json:{"driver":"nbd","server":{"type":"unix"}})", R"(json:{"driver":"nbd","server":"h"})",
        R"(json:{"driver":"nbd","host":"h","port":"http"})"}) {
    EXPECT_EQ(reading(bad), "refused") << bad;
  }
}

TEST(backing_name, json_of_other_protocols) {
  EXPECT_EQ(reading(R"(json:{"file.driver":"http","file.url":"http://h/f","file.timeout":2000})"),
            "network http://h/f");
  EXPECT_EQ(reading(R"(json:{"file.driver":"ftp","file.url":"http://h/f"})"), "refused");
  EXPECT_EQ(
      reading(R"(json:{"driver":"gluster","volume":"v","path":"i","server.0.type":"tcp","server.0.host":"A",)"
              R"("server.1.type":"unix","server.1.socket":"/s"})"),
      "network gluster://A/v/i");
  EXPECT_EQ(reading(R"(json:{"driver":"iscsi","transport":"tcp","portal":"t:1234","target":"iqn","lun":6})"),
            "network iscsi://t:1234/iqn/6");
  EXPECT_EQ(
      reading(R"(json:{"driver":"iscsi","transport":"tcp","portal":"t","target":"iqn","password":"x"})"),
      "network iscsi://t/iqn/0 incomplete");
  EXPECT_EQ(reading(R"(json:{"driver":"rbd","pool":"p","image":"i","snapshot":"s"})"), "network rbd:p/i@s");
  EXPECT_EQ(reading(R"(json:{"driver":"ssh","host":"h","port":"22","path":"p"})"), "network ssh://h:22/p");
  EXPECT_EQ(
      reading(
          R"(json:{"driver":"sheepdog","vdi":"A","server.type":"inet","server.host":"h","server.port":"7000"})"),
      "network sheepdog://h:7000/A");
  EXPECT_EQ(reading(R"(json:{"driver":"vxhs","vdisk-id":"u","server":{"host":"h","port":"9999"}})"),
            "network vxhs://h:9999/u");
  EXPECT_EQ(
      reading(R"(json:{"driver":"nfs","user":2,"group":9,"path":"/f","server":{"type":"inet","host":"h"}})"),
      "network nfs://h//f");
  EXPECT_EQ(reading(R"(json:{"driver":"nvme","device":"0000:01:00.0","namespace":1})"),
            "nvme nvme namespace=1 address=0000:01:00.0");
  EXPECT_EQ(reading(R"(json:{"driver":"nvme","device":"0000:01:00.0","namespace":0})"), "refused");
  EXPECT_EQ(reading(R"(json:{"driver":"nvme","device":"01:00.0","namespace":1})"), "refused");
}

TEST(backing_name, deep_json_is_refused) {
  std::string deep = "json:";
  for (int i = 0; i < 1000; ++i) deep += R"({"file":)";
  EXPECT_EQ(reading(deep), "refused");
  std::string dotted = R"(json:{"a)";
  for (int i = 0; i < 20000; ++i) dotted += ".a";
  EXPECT_EQ(reading(dotted + R"(":1,"driver":"file","filename":"/p"})"), "refused");
  EXPECT_EQ(reading(std::string(max_backing_name_bytes + 1, 'x')), "refused");
}

TEST(backing_name, what_describe_says_can_be_parsed_again) {
  for (const char* text : {"nbd://h:1/a b?c#d%", "nbd://[::1]/x", "nbds://h/e"}) {
    std::string name(text);
    const auto first = parse_backing_string("nbd:h:1:exportname=" + name, layer_source{});
    ASSERT_TRUE(first);
    const auto second = parse_backing_string(describe(first->source), layer_source{});
    ASSERT_TRUE(second) << describe(first->source);
    EXPECT_EQ(second->source, first->source);
  }
  const auto socket = parse("nbd:unix:/s?&=#%:exportname=//e");
  EXPECT_EQ(parse(describe(socket->source))->source, socket->source);
}

TEST(backing_name, keeping_names_relative) {
  using names = std::vector<std::string>;
  EXPECT_EQ(join_relative(names{"asdf"}), "asdf");
  EXPECT_EQ(join_relative(names{"asdf", "test"}), "test");
  EXPECT_EQ(join_relative(names{"../volume/image2", "../volume/image3"}), "../volume/../volume/image3");
  EXPECT_EQ(
      join_relative(names{"directory/stuff/volumes/garbage/image2", "../../../image3", "../blah/image4"}),
      "directory/stuff/volumes/garbage/../../../../blah/image4");
  EXPECT_EQ(join_relative(names{"asdf", "/abs", "test"}), std::nullopt);
  EXPECT_EQ(join_relative(names{"nbd://h/e"}), std::nullopt);
  EXPECT_EQ(join_relative(names{""}), std::nullopt);
  EXPECT_EQ(join_relative(names{}), std::nullopt);
}

TEST(backing_name, mutated_names_do_no_harm) {
  const std::vector<std::string> seeds{
      R"(json:{"driver":"raw","offset":1,"file":{"driver":"nbd","server.type":"unix","server.path":"/s"}})",
      "nbd+unix:///e%20?socket=/s",
      "nbd:[::1]:10809:exportname=x",
      "rbd:p/i@s:mon_host=a\\:1\\;b:conf=/c",
      "http://u:p@h:1/x?y",
      "../a/b"};
  constexpr unsigned seed = 20120414;
  std::mt19937 random(seed);
  for (int round = 0; round < 20000; ++round) {
    std::string text = seeds[random() % seeds.size()];
    for (unsigned change = random() % 6; change > 0; --change) {
      const std::size_t at = random() % (text.size() + 1);
      if (random() % 2 == 0 && at < text.size())
        text.erase(at, 1 + random() % 3);
      else
        text.insert(at, 1, "{}[]\":,./%\\@?=&a0\x80"[random() % 18]);
    }
    const auto parsed = parse(text);
    if (parsed) {
      EXPECT_FALSE(parsed->source.path.starts_with("fd:"))
          << "seed " << seed << " round " << round << ": " << text;
    } else {
      EXPECT_FALSE(parsed.error().what.empty());
    }
  }
}

TEST(model, layers_are_numbered_top_first_above_what_is_there) {
  disk_model disk;
  disk.layers.resize(3);
  EXPECT_EQ(number_layers(disk, 1), 4U);
  EXPECT_EQ(disk.layers[0].index, 1U);
  EXPECT_EQ(disk.layers[2].index, 3U);
  disk.layers.resize(4);
  disk.layers[1].index = 9;
  disk.layers[2].index = 9;
  EXPECT_EQ(number_layers(disk, 1), 12U);
  EXPECT_EQ(disk.layers[1].index, 9U);
  EXPECT_EQ(disk.layers[2].index, 10U) << "a second 9 gets a number of its own";
  EXPECT_EQ(disk.layers[3].index, 11U);
}

TEST(model, an_active_commit_shares_its_layers_index) {
  disk_model disk;
  disk.layers.resize(2);
  number_layers(disk, 1);
  disk.mirror = mirror_model{.job = "active-commit", .ready = "", .layers = {disk.layers[1]}};
  EXPECT_EQ(number_layers(disk, 1), 3U);
  EXPECT_EQ(disk.mirror->layers[0].index, 2U);
  disk.mirror->job = "copy";
  EXPECT_EQ(number_layers(disk, 1), 4U);
  EXPECT_EQ(disk.mirror->layers[0].index, 3U);
}

TEST(model, layers_are_found_by_index_and_by_name) {
  disk_model disk;
  disk.target = "vda";
  for (const char* path : {"/d/top", "/d/mid", "/e/base"}) {
    disk.layers.push_back({.index = {},
                           .format = "",
                           .source = file_at(path),
                           .slice = {},
                           .data_store = {},
                           .recorded_name = ""});
  }
  disk.layers[1].index = 5;
  disk.layers[2].recorded_name = "../e/base";
  EXPECT_EQ(find_layer(disk, "vda"), 0U);
  EXPECT_EQ(find_layer(disk, "vda[5]"), 1U);
  EXPECT_EQ(find_layer(disk, "/e/base"), 2U);
  EXPECT_EQ(find_layer(disk, "../e/base"), 2U);
  EXPECT_EQ(find_layer(disk, "mid"), 1U) << "resolved from the directory of the layer above";
  for (const char* bad :
       {"", "vdb", "vda[0]", "vda[1]", "vda[-1]", "vda[5][5]", "vda[ 5]", "vda[5", "vdb[5]", "/x", "top"}) {
    EXPECT_EQ(find_layer(disk, bad), std::nullopt) << bad;
  }
}

}  // namespace
}  // namespace weir
