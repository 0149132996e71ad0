#include "formats/codec.hpp"

#include <zlib.h>
#include <zstd.h>

#include <cerrno>
#include <memory>

namespace weir {
namespace {

constexpr int largest_zstd_window_log = 27;
constexpr int raw_deflate_window_bits = -15;
constexpr int written_deflate_window_bits = -12;
constexpr int deflate_memory_level = 9;

class deflate_encoder final : public unit_encoder {
 public:
  ~deflate_encoder() override {
    if (ready_) deflateEnd(&stream_);
  }

  result<std::size_t> encode(std::span<const std::byte> unit, std::span<std::byte> encoded) override {
    if (!prepare()) return errno_code(ENOMEM);
    stream_.next_in = reinterpret_cast<Bytef*>(const_cast<std::byte*>(unit.data()));
    stream_.avail_in = static_cast<uInt>(unit.size());
    stream_.next_out = reinterpret_cast<Bytef*>(encoded.data());
    stream_.avail_out = static_cast<uInt>(encoded.size());
    if (deflate(&stream_, Z_FINISH) != Z_STREAM_END) return std::size_t{0};
    return encoded.size() - stream_.avail_out;
  }

 private:
  bool prepare() {
    if (ready_) return deflateReset(&stream_) == Z_OK;
    ready_ = deflateInit2(&stream_, Z_DEFAULT_COMPRESSION, Z_DEFLATED, written_deflate_window_bits,
                          deflate_memory_level, Z_DEFAULT_STRATEGY) == Z_OK;
    return ready_;
  }

  z_stream stream_{};
  bool ready_ = false;
};

class zstd_encoder final : public unit_encoder {
 public:
  zstd_encoder() : context_(ZSTD_createCCtx(), &ZSTD_freeCCtx) {}

  result<std::size_t> encode(std::span<const std::byte> unit, std::span<std::byte> encoded) override {
    if (!context_) return errno_code(ENOMEM);
    const std::size_t length =
        ZSTD_compress2(context_.get(), encoded.data(), encoded.size(), unit.data(), unit.size());
    return ZSTD_isError(length) == 0 ? length : std::size_t{0};
  }

 private:
  std::unique_ptr<ZSTD_CCtx, decltype(&ZSTD_freeCCtx)> context_;
};

}  // namespace

result<void> decode_deflate(std::span<const std::byte> encoded, std::span<std::byte> decoded) {
  z_stream stream{};
  // zlib does not write through next_in; its type predates const.
  stream.next_in = reinterpret_cast<Bytef*>(const_cast<std::byte*>(encoded.data()));
  stream.avail_in = static_cast<uInt>(encoded.size());
  stream.next_out = reinterpret_cast<Bytef*>(decoded.data());
  stream.avail_out = static_cast<uInt>(decoded.size());
  if (stream.avail_in != encoded.size() || stream.avail_out != decoded.size()) return errc::corrupt_data;
  if (inflateInit2(&stream, raw_deflate_window_bits) != Z_OK) return errno_code(ENOMEM);
  const int answer = inflate(&stream, Z_FINISH);
  inflateEnd(&stream);
  // A stream that ends exactly with the buffer may answer Z_BUF_ERROR before its end marker was looked at.
  const bool sound = answer == Z_STREAM_END || answer == Z_BUF_ERROR;
  if (!sound || stream.avail_out != 0) return errc::corrupt_data;
  return {};
}

result<void> decode_zstd(std::span<const std::byte> encoded, std::span<std::byte> decoded) {
  const std::unique_ptr<ZSTD_DCtx, decltype(&ZSTD_freeDCtx)> context(ZSTD_createDCtx(), &ZSTD_freeDCtx);
  if (!context) return errno_code(ENOMEM);
  ZSTD_DCtx_setParameter(context.get(), ZSTD_d_windowLogMax, largest_zstd_window_log);
  ZSTD_inBuffer in{encoded.data(), encoded.size(), 0};
  ZSTD_outBuffer out{decoded.data(), decoded.size(), 0};
  while (out.pos < out.size) {
    const std::size_t in_before = in.pos;
    const std::size_t out_before = out.pos;
    const std::size_t answer = ZSTD_decompressStream(context.get(), &out, &in);
    if (ZSTD_isError(answer) != 0) return errc::corrupt_data;
    if (in.pos == in_before && out.pos == out_before) return errc::corrupt_data;
  }
  return {};
}

std::unique_ptr<unit_encoder> make_deflate_encoder() {
  return std::make_unique<deflate_encoder>();
}

std::unique_ptr<unit_encoder> make_zstd_encoder() {
  return std::make_unique<zstd_encoder>();
}

}  // namespace weir
