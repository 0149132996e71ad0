// Documents that mean harm, and documents by chance.
#include "tests/unit/xml_documents.hpp"

#include <random>

namespace weir {
namespace {

using test::domain;
using test::parsed;
using test::refusal;

TEST(xml_hostile, document_types_are_refused) {
  EXPECT_NE(refusal("<!DOCTYPE domain [<!ENTITY a 'aaaa'><!ENTITY b '&a;&a;&a;'>]><domain>&b;</domain>"),
            "accepted");
  EXPECT_NE(refusal("<!DOCTYPE domain SYSTEM 'file:///etc/passwd'><domain/>"), "accepted");
  EXPECT_NE(refusal("<domain>&b;</domain>"), "accepted");
  EXPECT_NE(refusal("<domain a='&b;'/>"), "accepted");
  EXPECT_EQ(refusal("<domain a='&amp;&#65;&#x41;'>&lt;<!-- &b; --><![CDATA[&b;]]></domain>"), "accepted");
}

TEST(xml_hostile, depth_is_bounded) {
  const auto nested = [](std::size_t depth) {
    std::string text;
    for (std::size_t i = 0; i < depth; ++i) text += "<a>";
    for (std::size_t i = 0; i < depth; ++i) text += "</a>";
    return "<domain>" + text + "</domain>";
  };
  EXPECT_EQ(refusal(nested(400)), "accepted");
  EXPECT_NE(refusal(nested(600)), "accepted");
  EXPECT_NE(refusal(nested(1000000)), "accepted");
  EXPECT_NE(refusal(std::string(1000000, '<')), "accepted");
}

TEST(xml_hostile, size_is_bounded) {
  EXPECT_NE(refusal("<domain>" + std::string(17 << 20, ' ') + "</domain>"), "accepted");
  std::string wide = "<domain";
  for (int i = 0; i < 100000; ++i) wide += " a" + std::to_string(i) + "=''";
  EXPECT_NE(refusal(wide + "/>"), "accepted");
  EXPECT_EQ(domain_document::load("/dev/zero").has_error(), true);
}

TEST(xml_hostile, broken_text) {
  for (const char* bad : {"<domain", "<domain>", "<domain></damain>", "</domain>", "<domain/><domain/>",
                          "<domain/>tail", "head<domain/>", "<domain a='1/>", "<!-- <domain/>",
                          "<?xml version='1.0' encoding='utf-16'?><domain/>",
                          "<?xml version='1.0' encoding='latin1'?><domain/>", "\xFF\xFE<\0d"}) {
    EXPECT_NE(refusal(bad), "accepted") << bad;
  }
  EXPECT_NE(refusal(std::string("<domain>\0</domain>", 18)), "accepted");
  EXPECT_EQ(domain_document::load("/nonexistent/x.xml").error().what,
            "/nonexistent/x.xml: No such file or directory");
  EXPECT_TRUE(domain_document::load("/").has_error());
}

TEST(xml_hostile, what_looks_like_xml) {
  for (const char* yes : {"<domain type='kvm'>", "\n <?xml", "\xEF\xBB\xBF<disk>", "<!-- x -->"}) {
    EXPECT_TRUE(domain_document::looks_like_xml(yes)) << yes;
  }
  for (const char* no : {"", "QFI\xfb", "<html>", "< domain", "\0<domain"})
    EXPECT_FALSE(domain_document::looks_like_xml(no));
}

TEST(xml_hostile, mutated_documents_are_refused_or_survive_every_edit) {
  const std::vector<std::string> seeds{
      domain("<disk type='file'><driver type='qcow2'/><source file='/t' index='1'/><backingStore "
             "type='network' index='2'><format "
             "type='raw'/><source protocol='nbd' name='e'><host name='h' "
             "port='1'/></source><backingStore/></backingStore><mirror "
             "type='file' job='copy' ready='yes'><format type='raw'/><source file='/n'/></mirror><target "
             "dev='vda'/></disk>"),
      "<disk><source file='/t'/><backingFile><driver type='raw'/><source "
      "file='/b'/><backingFile/></backingFile></disk>",
      "<disk><source file='/t'/><backing file='/m' format='qcow2'/><backing dev='/b'/><mirror><source "
      "file='/n' format='qed'/>"
      "<backing file='/b'/></mirror></disk>"};
  const std::vector<std::string> words{"<backingStore/>",
                                       "<source",
                                       "</source>",
                                       " type='file'",
                                       "<mirror",
                                       "/>",
                                       ">",
                                       "<",
                                       "'",
                                       "\"",
                                       "&",
                                       "<!--",
                                       "]]>",
                                       "<backing file='/x'/>",
                                       "<backingFile>",
                                       " index='3'",
                                       "\xC3",
                                       "\r\n"};
  constexpr unsigned seed = 1204;
  std::mt19937 random(seed);
  int accepted = 0;
  for (int round = 0; round < 6000; ++round) {
    std::string text = seeds[random() % seeds.size()];
    for (unsigned change = random() % 5; change > 0; --change) {
      const std::size_t at = random() % (text.size() + 1);
      const unsigned kind = random() % 3;
      if (kind == 0)
        text.erase(at, 1 + random() % 20);
      else if (kind == 1)
        text.insert(at, words[random() % words.size()]);
      else
        text.insert(at, text.substr(random() % text.size(), random() % 60));
    }
    auto document = domain_document::parse(text, "fuzz");
    if (!document) continue;
    ++accepted;
    ASSERT_EQ(document->write(), text) << "seed " << seed << " round " << round;
    for (std::size_t i = 0; i < document->disks().size(); ++i) {
      disk_model model = document->disks()[i];
      for (layer_model& layer : model.layers) {
        if (layer.format.empty()) layer.format = "raw";
      }
      document->set_mirror(i, std::nullopt);
      if (model.layers.empty()) continue;
      document->set_chain(i, model.layers, true);
      document->set_mirror(
          i, mirror_model{.job = "copy", .ready = "", .layers = {model.layers.back()}, .terminated = true});
      ASSERT_TRUE(document->disks()[i].layers == model.layers)
          << "seed " << seed << " round " << round << "\n"
          << text;
    }
    const auto again = domain_document::parse(document->write(), "again");
    ASSERT_TRUE(again) << "seed " << seed << " round " << round << ": " << again.error().what << "\n"
                       << text << "\n"
                       << document->write();
    ASSERT_TRUE(domain_document::parse(document->write(xml_view::inactive), "inactive"));
  }
  EXPECT_GT(accepted, 500);
}

}  // namespace
}  // namespace weir
