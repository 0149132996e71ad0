#include "formats/codec.hpp"

#include <gtest/gtest.h>
#include <zlib.h>
#include <zstd.h>

#include <random>
#include <vector>

namespace weir {
namespace {

using bytes = std::vector<std::byte>;

bytes make_plain(std::size_t size) {
  bytes plain(size);
  for (std::size_t at = 0; at < size; ++at) plain[at] = static_cast<std::byte>(at / 7 % 13);
  return plain;
}

bytes deflate_raw(const bytes& plain) {
  z_stream stream{};
  EXPECT_EQ(deflateInit2(&stream, 9, Z_DEFLATED, -12, 9, Z_DEFAULT_STRATEGY), Z_OK);
  bytes out(plain.size() + 1024);
  stream.next_in = reinterpret_cast<Bytef*>(const_cast<std::byte*>(plain.data()));
  stream.avail_in = static_cast<uInt>(plain.size());
  stream.next_out = reinterpret_cast<Bytef*>(out.data());
  stream.avail_out = static_cast<uInt>(out.size());
  EXPECT_EQ(deflate(&stream, Z_FINISH), Z_STREAM_END);
  out.resize(out.size() - stream.avail_out);
  deflateEnd(&stream);
  return out;
}

bytes compress_zstd(const bytes& plain, int window_log) {
  ZSTD_CCtx* context = ZSTD_createCCtx();
  ZSTD_CCtx_setParameter(context, ZSTD_c_windowLog, window_log);
  ZSTD_CCtx_setParameter(context, ZSTD_c_contentSizeFlag, 0);
  bytes out(ZSTD_compressBound(plain.size()) + 64);
  ZSTD_outBuffer to{out.data(), out.size(), 0};
  ZSTD_inBuffer from{plain.data(), plain.size(), 0};
  // Without a known size the frame states its whole window.
  EXPECT_FALSE(ZSTD_isError(ZSTD_compressStream2(context, &to, &from, ZSTD_e_continue)));
  EXPECT_EQ(ZSTD_compressStream2(context, &to, &from, ZSTD_e_end), 0U);
  ZSTD_freeCCtx(context);
  out.resize(to.pos);
  return out;
}

using decoder = result<void> (*)(std::span<const std::byte>, std::span<std::byte>);

void expect_strict(decoder decode, bytes encoded, const bytes& plain) {
  bytes out(plain.size());
  ASSERT_TRUE(decode(encoded, out).has_value());
  EXPECT_TRUE(out == plain);

  bytes padded = encoded;
  padded.resize(padded.size() + 700, std::byte{0xee});
  EXPECT_TRUE(decode(padded, out).has_value()) << "bytes behind the stream are another unit's";

  bytes shorter(plain.size() / 2);
  EXPECT_TRUE(decode(encoded, shorter).has_value()) << "a longer stream is cut at the unit";

  bytes longer(plain.size() + 1);
  EXPECT_EQ(decode(padded, longer).error(), error_code(errc::corrupt_data)) << "a short stream";

  const std::span<const std::byte> cut = std::span(encoded).first(encoded.size() / 2);
  EXPECT_EQ(decode(cut, out).error(), error_code(errc::corrupt_data));
  EXPECT_EQ(decode({}, out).error(), error_code(errc::corrupt_data));
}

TEST(codec, deflate_is_exact) {
  const bytes plain = make_plain(65536);
  expect_strict(&decode_deflate, deflate_raw(plain), plain);
}

TEST(codec, zstd_is_exact) {
  const bytes plain = make_plain(65536);
  expect_strict(&decode_zstd, compress_zstd(plain, 20), plain);
}

TEST(codec, zstd_refuses_huge_windows) {
  const bytes plain = make_plain(65536);
  bytes out(plain.size());
  EXPECT_TRUE(decode_zstd(compress_zstd(plain, 27), out).has_value());
  EXPECT_EQ(decode_zstd(compress_zstd(plain, 28), out).error(), error_code(errc::corrupt_data));
}

TEST(codec, rubbish_is_refused_or_decoded_but_never_trusted) {
  std::mt19937_64 random(3);
  bytes encoded(900);
  bytes out(4096);
  for (int round = 0; round < 3000; ++round) {
    for (std::byte& each : encoded) each = static_cast<std::byte>(random());
    if (round % 2 == 0) {
      const unsigned char magic[] = {0x28, 0xb5, 0x2f, 0xfd};
      for (std::size_t at = 0; at < 4; ++at) encoded[at] = static_cast<std::byte>(magic[at]);
    }
    for (const decoder each : {&decode_deflate, &decode_zstd}) {
      const result<void> done = each(encoded, out);
      if (!done) {
        EXPECT_EQ(done.error(), error_code(errc::corrupt_data));
      }
    }
  }
}

TEST(codec, encoders_and_decoders_agree) {
  const std::pair<std::unique_ptr<unit_encoder>, decoder> pairs[] = {
      {make_deflate_encoder(), &decode_deflate}, {make_zstd_encoder(), &decode_zstd}};
  for (const auto& [encoder, decode] : pairs) {
    for (const std::size_t size : {std::size_t{512}, std::size_t{65536}, std::size_t{2} << 20}) {
      const bytes plain = make_plain(size);
      bytes encoded(size - 1);
      const result<std::size_t> length = encoder->encode(plain, encoded);
      ASSERT_TRUE(length.has_value());
      ASSERT_GT(*length, 0U);
      ASSERT_LT(*length, size / 4);
      encoded.resize(*length);
      bytes decoded(size);
      ASSERT_TRUE(decode(encoded, decoded).has_value());
      EXPECT_EQ(decoded, plain);
    }
  }
}

TEST(codec, what_does_not_get_smaller_is_not_encoded) {
  std::mt19937_64 random(1);
  bytes plain(4096);
  for (std::byte& each : plain) each = static_cast<std::byte>(random());
  bytes encoded(plain.size() - 1);
  EXPECT_EQ(*make_deflate_encoder()->encode(plain, encoded), 0U);
  EXPECT_EQ(*make_zstd_encoder()->encode(plain, encoded), 0U);
}

// Readers of qcow2 have a window of 4 KiB only.
TEST(codec, written_streams_reach_back_4_kib_at_most) {
  const bytes block = [] {
    std::mt19937_64 random(2);
    bytes made(8192);
    for (std::byte& each : made) each = static_cast<std::byte>(random());
    return made;
  }();
  bytes plain = block;
  plain.insert(plain.end(), block.begin(), block.end());
  plain.resize(65536);
  bytes encoded(plain.size() - 1);
  encoded.resize(*make_deflate_encoder()->encode(plain, encoded));
  z_stream stream{};
  ASSERT_EQ(inflateInit2(&stream, -12), Z_OK);
  bytes decoded(plain.size());
  stream.next_in = reinterpret_cast<Bytef*>(encoded.data());
  stream.avail_in = static_cast<uInt>(encoded.size());
  stream.next_out = reinterpret_cast<Bytef*>(decoded.data());
  stream.avail_out = static_cast<uInt>(decoded.size());
  EXPECT_EQ(inflate(&stream, Z_FINISH), Z_STREAM_END);
  inflateEnd(&stream);
  EXPECT_EQ(decoded, plain);
}

}  // namespace
}  // namespace weir
