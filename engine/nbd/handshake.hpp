// The server's side of NBD negotiation (fixed newstyle) as a state machine without I/O: client bytes in, reply
// bytes out, and at the end a decision. Source: NBD specification, "Session flow", "Option types".
//
//   client flags → option header → option data → (answer) → option header … → transmitting or closing
//                                                    STARTTLS → securing → secured() → option header …
//
// One place consumes exactly the announced length of an option, whatever its handler made of the content, so a
// malformed option can be answered but never shifts the frame. Options up to `largest_option` are buffered;
// longer ones are skipped and refused up to `longest_skip`, and beyond that the connection closes. Nothing that
// a client sent is ever echoed.
//
// Where TLS is required nothing but STARTTLS and ABORT is answered before it, and whatever was negotiated before it is
// forgotten. A client that may not open an export is told the same as if there were none.
#pragma once

#include "engine/nbd/access_list.hpp"
#include "engine/nbd/export_catalog.hpp"
#include "engine/nbd/meta_context.hpp"
#include "engine/nbd/protocol.hpp"

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace weir::nbd {

/// What holds for every client of a listener.
struct handshake_policy {
  bool tls = false;                     ///< required; otherwise refused
  const access_list* access = nullptr;  ///< null: every client may open every export
};

/// What a finished handshake agreed on.
struct session_terms {
  export_facts facts;
  std::uint16_t flags = 0;  ///< transmission flags as sent
  bool structured = false;  ///< replies come in chunks
  bool extended = false;    ///< 64-bit headers both ways; implies structured
  meta_context_set contexts;
};

class handshake {
 public:
  static constexpr std::uint32_t largest_option = 64U << 10;
  static constexpr std::uint32_t longest_skip = 1U << 20;
  static constexpr unsigned most_options = 1000;

  enum class phase : std::uint8_t {
    negotiating,
    securing,      ///< send the output, then do TLS and call secured(); nothing may have been received behind
    transmitting,  ///< send the output, then requests follow under terms()
    closing,       ///< send the output, then close
  };

  /// The greeting is in the output from the start. `catalog` and what `policy` points to must outlive this.
  explicit handshake(const export_catalog& catalog, handshake_policy policy = {});

  /// Takes a prefix of `input`, at most to the end of one option, and returns its length: more than zero
  /// unless `input` is empty or the phase is no longer negotiating.
  std::size_t feed(std::span<const std::byte> input);

  /// What to send next; empty afterwards.
  std::vector<std::byte> take_output() { return std::exchange(output_, {}); }

  /// TLS is up; `client` is who proved to be at its other end. Negotiation starts anew. Precondition: securing.
  void secured(std::string client);

  phase now() const noexcept { return phase_; }
  /// Precondition: transmitting.
  const session_terms& terms() const noexcept { return terms_; }

  /// From here on options are answered with ERR_SHUTDOWN.
  void begin_shutdown() noexcept { shutting_down_ = true; }

 private:
  enum class part : std::uint8_t { client_flags, header, data, skip };

  void expect(part next, std::uint32_t length);
  void part_complete();
  void client_flags_complete();
  void header_complete();
  void handle_option();
  void handle_export_name();
  void handle_info();
  void handle_list();
  void handle_structured_reply();
  void handle_extended_headers();
  void handle_starttls();
  void handle_meta_context();

  bool require_no_data();
  bool lacks_tls() const noexcept { return policy_.tls && !secure_; }
  std::optional<export_facts> find(std::string_view name) const;
  bool may_open(std::string_view name) const;
  void send_info(const export_facts& facts, std::span<const std::byte> wanted);
  void send_contexts(const export_facts& facts, meta_context_set contexts);
  void begin_transmission(export_facts facts);
  std::uint16_t transmission_flags(const export_facts& facts) const noexcept;
  void reply(option_reply type, std::span<const std::byte> data = {});
  void refuse(option_reply type, std::string_view why);
  void refuse_unknown();
  void close() noexcept { phase_ = phase::closing; }

  const export_catalog& catalog_;
  handshake_policy policy_;
  std::string client_;
  bool secure_ = false;
  phase phase_ = phase::negotiating;
  part part_ = part::client_flags;
  std::uint32_t missing_ = client_flags_size;  ///< bytes until the part is complete
  std::vector<std::byte> collected_;           ///< the part's bytes, unless they are skipped
  std::vector<std::byte> output_;
  std::uint32_t option_ = 0;
  unsigned option_count_ = 0;
  bool fixed_newstyle_ = false;
  bool no_zeroes_ = false;
  bool structured_ = false;
  bool extended_ = false;
  bool shutting_down_ = false;
  meta_context_set contexts_;
  std::string contexts_export_;
  std::vector<std::string> contexts_bitmaps_;  // of that export then: what the numbers of contexts mean
  session_terms terms_;
};

}  // namespace weir::nbd
