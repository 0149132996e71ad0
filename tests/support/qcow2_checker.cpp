#include "tests/support/qcow2_checker.hpp"

#include <map>
#include <sstream>

namespace weir::test {
namespace {

using u64 = std::uint64_t;

constexpr u64 copied = u64{1} << 63;
constexpr u64 compressed = u64{1} << 62;
constexpr u64 offset_bits = 0x00fffffffffffe00;

class checker {
 public:
  explicit checker(std::span<const std::byte> file) : file_(file) {}

  qcow2_report run() {
    if (number(0, 4) != 0x514649fb) {
      error("no magic");
      return report_;
    }
    version_ = number(4, 4);
    bits_ = number(20, 4);
    size_ = u64{1} << bits_;
    order_ = version_ == 2 ? 4 : number(96, 4);
    external_ = version_ >= 3 && (number(72, 8) & 4) != 0;
    extended_ = version_ >= 3 && (number(72, 8) & 16) != 0;
    if (extended_ && bits_ < 14) error("subclusters in clusters too small for them");
    claim(0, size_, "header");
    count_tables();
    count_snapshots();
    count_bitmaps();
    walk_l1(number(40, 8), number(36, 4), true);
    compare();
    return report_;
  }

 private:
  u64 number(u64 at, unsigned width) const {
    u64 value = 0;
    for (unsigned index = 0; index < width; ++index) {
      const u64 byte = at + index < file_.size() ? std::to_integer<u64>(file_[at + index]) : 0;
      value = value << 8 | byte;
    }
    return value;
  }

  void error(const std::string& text) {
    if (report_.errors.size() < 20) report_.errors.push_back(text);
  }

  static std::string at(u64 offset) {
    std::ostringstream text;
    text << " at 0x" << std::hex << offset;
    return text.str();
  }

  /// One reference on each cluster of [offset, offset + length). Metadata and data may not meet.
  void claim(u64 offset, u64 length, const std::string& what) {
    if (offset >= file_.size()) error(what + at(offset) + " lies past the end of the file");
    for (u64 cluster = offset >> bits_; cluster <= (offset + length - 1) >> bits_; ++cluster) {
      ++references_[cluster];
      const std::string kind = what.substr(0, what.find(' '));
      const auto [known, first] = kinds_.emplace(cluster, kind);
      if (!first && known->second != kind) {
        error(what + at(cluster << bits_) + " overlaps " + known->second);
      }
    }
  }

  void count_tables() {
    const u64 table = number(48, 8);
    const u64 table_bytes = number(56, 4) << bits_;
    claim(table, table_bytes, "refcount-table");
    for (u64 at_entry = 0; at_entry < table_bytes; at_entry += 8) {
      const u64 block = number(table + at_entry, 8);
      if (block == 0) continue;
      if (block % size_ != 0) error("refcount-block unaligned" + at(block));
      claim(block, size_, "refcount-block");
    }
  }

  void count_snapshots() {
    const u64 count = number(60, 4);
    if (count == 0) return;
    u64 entry = number(64, 8);
    const u64 begin = entry;
    for (u64 index = 0; index < count; ++index) {
      walk_l1(number(entry, 8), number(entry + 8, 4), false);
      const u64 length = 40 + number(entry + 36, 4) + number(entry + 12, 2) + number(entry + 14, 2);
      entry += (length + 7) & ~u64{7};
    }
    claim(begin, entry - begin, "snapshot-table");
  }

  /// Only those that autoclear bit 0 vouches for.
  void count_bitmaps() {
    if (version_ < 3 || (number(88, 8) & 1) == 0) return;
    for (u64 place = number(100, 4); place + 8 <= size_ && number(place, 4) != 0;) {
      const u64 length = number(place + 4, 4);
      if (number(place, 4) == 0x23852875) count_directory(number(place + 8, 4), number(place + 24, 8));
      place += 8 + ((length + 7) & ~u64{7});
    }
  }

  void count_directory(u64 count, u64 directory) {
    u64 entry = directory;
    for (u64 index = 0; index < count; ++index) {
      const u64 table = number(entry, 8);
      const u64 table_count = number(entry + 8, 4);
      if (table_count > 0) claim(table, table_count * 8, "bitmap-table");
      for (u64 place = table; place < table + table_count * 8; place += 8) {
        const u64 raw = number(place, 8);
        if (raw == 0 || raw == 1) continue;
        if (raw % size_ != 0) error("bitmap table entry invalid" + at(place));
        claim(raw, size_, "bitmap");
      }
      entry += (24 + number(entry + 18, 2) + number(entry + 20, 4) + 7) & ~u64{7};
    }
    claim(directory, entry - directory, "bitmap-directory");
  }

  void walk_l1(u64 l1, u64 count, bool active) {
    if (count == 0) return;
    claim(l1, count * 8, "l1-table");
    for (u64 index = 0; index < count; ++index) {
      const u64 entry = number(l1 + index * 8, 8);
      if (entry == 0) continue;
      const u64 l2 = entry & offset_bits;
      if (l2 == 0 || l2 % size_ != 0) error("l1 entry invalid" + at(l1 + index * 8));
      claim(l2, size_, "l2-table");
      if (active) flags_.push_back({l2 >> bits_, (entry & copied) != 0, "l1 entry " + std::to_string(index)});
      walk_l2(l2, active, index * (size_ / entry_bytes()) << bits_);
    }
  }

  void check_bitmap(u64 entry, u64 place) {
    const u64 zeroes = number(place + 8, 4);
    const u64 allocated = number(place + 12, 4);
    if ((zeroes & allocated) != 0) error("subclusters both allocated and zero" + at(place));
    if ((entry & compressed) != 0 && (zeroes | allocated) != 0)
      error("bitmap of a compressed cluster" + at(place));
    if (entry == 0 && allocated != 0) error("subclusters allocated nowhere" + at(place));
  }

  u64 entry_bytes() const { return extended_ ? 16 : 8; }

  /// A data file is not counted; its clusters lie where the guest's do.
  void check_external(u64 entry, u64 guest, u64 place) {
    if ((entry & compressed) != 0) error("compressed cluster in a data file" + at(place));
    if ((entry & offset_bits) != guest) error("data file offset is not the guest's" + at(place));
    if ((entry & copied) == 0) ++report_.missing_copied;
  }

  void walk_l2(u64 l2, bool active, u64 guest) {
    for (u64 place = l2; place < l2 + size_; place += entry_bytes(), guest += size_) {
      const u64 entry = number(place, 8);
      if (extended_) check_bitmap(entry, place);
      if (entry == 0 || (entry == 1 && !extended_)) continue;
      if (active) ++report_.used_clusters;
      if (external_) {
        check_external(entry, guest, place);
        continue;
      }
      if ((entry & compressed) != 0) {
        const unsigned shift = 62 - (static_cast<unsigned>(bits_) - 8);
        const u64 offset = entry & ((u64{1} << shift) - 1);
        const u64 sectors = ((entry & ~(compressed | copied)) >> shift) + 1;
        claim(offset, (offset / 512 + sectors) * 512 - offset, "compressed");
        if ((entry & copied) != 0) error("COPIED on a compressed cluster" + at(place));
        continue;
      }
      const u64 offset = entry & offset_bits;
      if (offset == 0 || offset % size_ != 0) error("l2 entry invalid" + at(place));
      claim(offset, size_, "data");
      if (active) flags_.push_back({offset >> bits_, (entry & copied) != 0, "l2 entry" + at(place)});
    }
  }

  u64 stored_count(u64 cluster) const {
    const u64 per_block = size_ * 8 >> order_;
    const u64 index = cluster / per_block;
    if (index * 8 >= number(56, 4) << bits_) return 0;
    const u64 block = number(number(48, 8) + index * 8, 8);
    if (block == 0) return 0;
    const u64 within = cluster % per_block;
    if (order_ >= 3) {
      const auto width = static_cast<unsigned>((u64{1} << order_) / 8);
      return number(block + within * width, width);
    }
    const u64 width = u64{1} << order_;
    return number(block + within * width / 8, 1) >> (within * width % 8) & ((u64{1} << width) - 1);
  }

  void count_leaks(u64 first, u64 end) {
    for (u64 cluster = first; cluster < end; ++cluster) {
      const u64 stored = stored_count(cluster);
      if (stored == 0) continue;
      const auto found = references_.find(cluster);
      if (found == references_.end() || stored > found->second) ++report_.leaked_clusters;
    }
  }

  void compare() {
    for (const auto& [cluster, wanted] : references_) {
      const u64 stored = stored_count(cluster);
      if (stored >= wanted) continue;
      error("cluster" + at(cluster << bits_) + " (" + kinds_.at(cluster) + ") counts " +
            std::to_string(stored) + " below " + std::to_string(wanted) + " references");
    }
    const u64 table = number(48, 8);
    const u64 per_block = size_ * 8 >> order_;
    for (u64 index = 0; index * 8 < number(56, 4) << bits_; ++index) {
      if (number(table + index * 8, 8) != 0) count_leaks(index * per_block, (index + 1) * per_block);
    }
    for (const flag& each : flags_) {
      if (each.set && references_[each.cluster] != 1) error(each.where + " is COPIED but shared");
      if (!each.set && stored_count(each.cluster) == 1) ++report_.missing_copied;
    }
  }

  struct flag {
    u64 cluster;
    bool set;
    std::string where;
  };

  std::span<const std::byte> file_;
  u64 version_ = 0;
  u64 bits_ = 0;
  u64 size_ = 0;
  u64 order_ = 4;
  bool extended_ = false;
  bool external_ = false;
  std::map<u64, u64> references_;
  std::map<u64, std::string> kinds_;
  std::vector<flag> flags_;
  qcow2_report report_;
};

}  // namespace

std::string qcow2_report::text() const {
  std::string text = std::to_string(errors.size()) + " errors, " + std::to_string(leaked_clusters) +
                     " leaks, " + std::to_string(missing_copied) + " COPIED missing";
  for (const std::string& each : errors) text += "\n  " + each;
  return text;
}

qcow2_report check_qcow2(std::span<const std::byte> file) {
  return checker(file).run();
}

}  // namespace weir::test
