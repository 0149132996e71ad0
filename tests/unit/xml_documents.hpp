// Documents for the tests of xml/.
#pragma once

#include "xml/domain_document.hpp"

#include <gtest/gtest.h>

#include <string>

namespace weir::test {

/// A whole domain around the inside of <devices>; valid by libvirt's schema if `devices` is.
inline std::string domain(const std::string& devices) {
  return "<?xml version='1.0' encoding='UTF-8'?>\n<!-- kept -->\n<domain type='qemu'>\n  <name>guest</name>\n"
         "  <memory unit='KiB'>65536</memory>\n  <os>\n    <type arch='x86_64' machine='pc'>hvm</type>\n  "
         "</os>\n"
         "  <devices>\n" +
         devices + "  </devices>\n</domain>\n";
}

inline domain_document parsed(const std::string& text) {
  auto document = domain_document::parse(text, "test.xml");
  if (!document) ADD_FAILURE() << document.error().what << "\n" << text;
  return document ? std::move(*document) : *domain_document::parse("<domain/>", "empty");
}

/// The failure's text, or "accepted".
inline std::string refusal(const std::string& text) {
  const auto document = domain_document::parse(text, "test.xml");
  return document ? "accepted" : document.error().what;
}

/// "qcow2 /top <- raw /base <- end", "… <- ?" where the description is open.
inline std::string chain_text(const std::vector<layer_model>& layers, bool terminated) {
  std::string text;
  for (const layer_model& layer : layers) {
    text += (layer.format.empty() ? "?" : layer.format) + " " + describe(layer.source) + " <- ";
  }
  return text + (terminated ? "end" : "?");
}

inline std::string chain_text(const disk_model& disk) {
  return chain_text(disk.layers, disk.terminated);
}

}  // namespace weir::test
