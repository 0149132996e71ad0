#include "engine/control/qmp_session.hpp"

#include "engine/control/arguments.hpp"

#include <boost/json/array.hpp>
#include <boost/json/serialize.hpp>

#include <charconv>
#include <cstdint>
#include <utility>

namespace weir {
namespace {

namespace json = boost::json;

/// Checks the members of a request (QEMU's qmp_dispatch_check_obj).
std::optional<qmp_error> decode(const json::object& object, qmp_request& into) {
  if (const json::value* id = object.if_contains("id")) into.id = *id;
  const json::value* command = nullptr;
  for (const json::key_value_pair& member : object) {
    const std::string_view name = member.key();
    if (name == "execute") {
      if (!member.value().is_string()) return generic_error("QMP input member 'execute' must be a string");
      command = &member.value();
    } else if (name == "arguments") {
      if (!member.value().is_object()) return generic_error("QMP input member 'arguments' must be an object");
    } else if (name != "id") {
      return generic_error("QMP input member '" + std::string(name) + "' is unexpected");
    }
  }
  if (command == nullptr) return generic_error("QMP input lacks member 'execute'");
  into.command = std::string(command->get_string());
  if (const json::value* arguments = object.if_contains("arguments"))
    into.arguments = arguments->get_object();
  return std::nullopt;
}

qmp_error command_not_found(std::string description) {
  return {"CommandNotFound", std::move(description)};
}

}  // namespace

json::object describe_version(std::string_view version) {
  std::int64_t parts[3] = {0, 0, 0};
  const char* at = version.data();
  const char* const end = version.data() + version.size();
  for (std::int64_t& part : parts) {
    at = std::from_chars(at, end, part).ptr;
    if (at == end) break;
    ++at;
  }
  json::object numbers{{"micro", parts[2]}, {"minor", parts[1]}, {"major", parts[0]}};
  return {{"qemu", std::move(numbers)}, {"package", "weir " + std::string(version)}};
}

std::string qmp_session::greeting(std::string_view version) {
  json::object body{{"version", describe_version(version)}, {"capabilities", json::array{}}};
  return json::serialize(json::object{{"QMP", std::move(body)}}) + "\r\n";
}

std::string qmp_session::reply_line(const std::optional<json::value>& id, const qmp_reply& reply) {
  json::object line;
  if (reply.has_value()) {
    line["return"] = *reply;
  } else {
    line["error"] = {{"class", reply.error().error_class}, {"desc", reply.error().description}};
  }
  if (id) line["id"] = *id;
  return json::serialize(line) + "\r\n";
}

std::vector<qmp_request> qmp_session::feed(std::string_view bytes) {
  std::vector<qmp_request> requests;
  for (json_stream::item& item : stream_.feed(bytes)) {
    qmp_request& request = requests.emplace_back();
    if (!item.value) {
      request.refusal = generic_error(std::move(item.problem));
    } else if (!item.value->is_object()) {
      request.refusal = generic_error("QMP input must be a JSON object");
    } else {
      request.refusal = decode(item.value->get_object(), request);
    }
  }
  return requests;
}

qmp_session::verdict qmp_session::admit(const qmp_request& request) {
  if (request.refusal) return {.refusal = request.refusal};
  const bool negotiating = request.command == "qmp_capabilities";
  if (!negotiated_ && !negotiating) {
    return {.refusal = command_not_found("Expecting capabilities negotiation with 'qmp_capabilities'")};
  }
  if (negotiated_ && negotiating) {
    return {.refusal = command_not_found("Capabilities negotiation is already complete, command ignored")};
  }
  return negotiating ? negotiate(request) : verdict{};
}

qmp_session::verdict qmp_session::negotiate(const qmp_request& request) {
  argument_reader arguments(request.arguments);
  arguments.ignore("enable");
  if (auto checked = arguments.finish(); checked.has_error()) return {.refusal = checked.error()};
  const json::value* enable = request.arguments.if_contains("enable");
  if (enable != nullptr && !(enable->is_array() && enable->get_array().empty())) {
    return {.refusal = generic_error("weir offers no capabilities that could be enabled")};
  }
  negotiated_ = true;
  return {.answered = true};
}

}  // namespace weir
