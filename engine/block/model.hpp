// What a disk is, before anything is opened: the chain as domain XML, a command line or image headers
// describe it. Plain values. Vocabulary and rules: libvirt's domain XML (formatdomain, "Hard drives, floppy
// disks, CDROMs").
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace weir {

/// One server of a network source.
struct network_host {
  std::string name;
  std::string port;       ///< decimal; empty = the protocol's default
  std::string transport;  ///< empty = tcp; unix, rdma
  std::string socket;     ///< for unix
  friend bool operator==(const network_host&, const network_host&) = default;
};

/// What opens a door. Used where a layer is opened; shown, written or recorded nowhere.
struct layer_secrets {
  std::string user;
  std::string password;
  std::string cookies;  ///< "a=b; c=d"
  friend bool operator==(const layer_secrets&, const layer_secrets&) = default;
};

/// Where the bytes of a layer are. `type` selects which members count.
struct layer_source {
  std::string type = "file";  ///< file block dir network volume nvme vhostuser vhostvdpa
  std::string path;           ///< file, block, dir, vhostvdpa: the path; "fd:N" names an open descriptor
  std::string fd_group;       ///< file: a descriptor handed in; the path is then only a label
  std::string protocol;  ///< network: nbd rbd iscsi gluster http https ftp ftps tftp ssh nfs sheepdog vxhs
  std::string name;      ///< network: export, image or path on the server
  std::vector<network_host> hosts;
  std::string query;  ///< http(s): what follows '?'
  bool tls = false;   ///< network: tls='yes'
  /// Further facts in libvirt's words (pool volume snapshot config initiator user namespace …), in a fixed
  /// order: shown and compared, not interpreted.
  std::vector<std::pair<std::string, std::string>> details;
  layer_secrets secrets = {};  ///< http(s)
  std::string unsupported;  ///< a feature named in the description that must not be ignored; refused at open
  friend bool operator==(const layer_source&, const layer_source&) = default;
};

/// A window of the storage in which the whole image lies.
struct storage_slice {
  std::uint64_t offset = 0;
  std::uint64_t size = 0;  ///< 0: up to the end of the storage
  friend bool operator==(const storage_slice&, const storage_slice&) = default;
};

struct layer_model {
  /// The name `vda[index]`; unique in the guest, never reused; absent until one is given.
  std::optional<unsigned> index;
  bool index_invented = false;  ///< weir gave the index; the description carried none
  std::string format;           ///< empty: not recorded, see the probing rule in engine/block/open_chain.hpp
  layer_source source;
  std::optional<storage_slice> slice;
  std::vector<layer_model> data_store;  ///< an external data file: empty or one layer
  /// The string that named this layer in its overlay's header, if it was read from there.
  std::string recorded_name;
  friend bool operator==(const layer_model&, const layer_model&) = default;
};

struct mirror_model {
  std::string job;                  ///< copy or active-commit
  std::string ready;                ///< empty (still copying), yes, abort or pivot
  std::vector<layer_model> layers;  ///< active first
  bool terminated = false;
};

struct disk_model {
  std::string target;           ///< vda
  std::string device = "disk";  ///< disk cdrom floppy lun
  bool readonly = false;
  bool shareable = false;
  bool transient = false;
  bool copy_on_read = false;
  bool discard_unmap = false;         ///< guest discards reach the file
  std::string detect_zeroes = "off";  ///< off on unmap
  std::string cache;                  ///< empty = default
  std::string io;                     ///< threads native io_uring; empty = default
  /// mandatory requisite optional; empty = mandatory. optional: a missing file means no medium.
  std::string startup_policy;
  std::vector<layer_model> layers;  ///< 0 is the active layer; empty: a drive without medium
  /// True: the description ends the chain. False: the last layer's own header says how it goes on.
  bool terminated = false;
  std::optional<mirror_model> mirror;
};

/// "/p/base.raw", "nbd+unix:///x?socket=/s", … as shown to people and compared by commands.
std::string describe(const layer_source& source);

/// Gives every layer of `disk` (mirror included) without an index the next number, top first, and returns the
/// number after the last one used. Numbers start at `next` and stay above every index already there. An index
/// that an earlier layer of the disk carries is replaced, except where an active commit's mirror names a
/// layer of its own disk and so shares its index.
unsigned number_layers(disk_model& disk, unsigned next);

/// The layer of `disk` that `spec` names: "vda" (the active layer), "vda[3]" (by index), a location or the
/// name an overlay's header recorded for it. Depth, 0 = active. Nothing where no layer matches.
std::optional<std::size_t> find_layer(const disk_model& disk, std::string_view spec);

}  // namespace weir
