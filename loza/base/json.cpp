#include "loza/base/json.h"

#include <fmt/format.h>

#include <unordered_set>
#include <utility>
#include <vector>

#include "loza/base/error.h"

namespace loza {
namespace {

// Builds the document in one walk, refusing what nlohmann's own builder would accept silently
// (duplicate names) or recurse into (depth).
class StrictBuilder : public nlohmann::json_sax<Json> {
 public:
  StrictBuilder(const std::string& place, JsonLimits limits) : place_(place), limits_(limits) {}

  Json take() { return std::move(root_); }

  bool null() override { return add(nullptr); }
  bool boolean(bool value) override { return add(value); }
  bool number_integer(number_integer_t value) override { return add(value); }
  bool number_unsigned(number_unsigned_t value) override { return add(value); }
  bool number_float(number_float_t value, const string_t&) override { return add(value); }
  bool string(string_t& value) override { return add(std::move(value)); }
  bool binary(binary_t&) override { return true; }
  bool start_object(std::size_t) override { return enter(Json::object()); }
  bool key(string_t& name) override {
    if (!open_.back().names.insert(name).second) {
      throw_bad_input(place_, "each name once in an object",
                      fmt::format("the name {} twice", quote_name(name)));
    }
    name_ = std::move(name);
    return true;
  }
  bool end_object() override { return leave(); }
  bool start_array(std::size_t) override { return enter(Json::array()); }
  bool end_array() override { return leave(); }
  bool parse_error(std::size_t position, const std::string&,
                   const nlohmann::detail::exception& e) override {
    throw_json_error(place_, position, e);
  }

 private:
  // A container whose end has not been seen. Its address is stable: nothing is appended to
  // its parent before it ends.
  struct Open {
    Json* value;
    std::unordered_set<std::string> names;
  };

  bool add(Json value) {
    place(std::move(value));
    return true;
  }
  Json* place(Json value) {
    if (open_.empty()) {
      root_ = std::move(value);
      return &root_;
    }
    Json& parent = *open_.back().value;
    if (parent.is_array()) {
      auto& items = parent.get_ref<Json::array_t&>();
      items.push_back(std::move(value));
      return &items.back();
    }
    append_member(parent, std::move(name_), std::move(value));
    return &parent.get_ref<Json::object_t&>().back().second;
  }
  bool enter(Json container) {
    if (static_cast<int>(open_.size()) >= limits_.max_depth) {
      throw_bad_input(place_, fmt::format("JSON nested at most {} deep", limits_.max_depth),
                      "deeper nesting");
    }
    open_.push_back({place(std::move(container)), {}});
    return true;
  }
  bool leave() {
    open_.pop_back();
    return true;
  }

  const std::string& place_;
  JsonLimits limits_;
  Json root_;
  std::vector<Open> open_;
  std::string name_;
};

std::string cut(std::string text) {
  constexpr std::size_t kShown = 60;
  if (text.size() > kShown) text = text.substr(0, kShown) + "...";
  return text;
}

}  // namespace

Json parse_json(std::string_view text, const std::string& place, JsonLimits limits) {
  StrictBuilder builder(place, limits);
  walk_json(text, place, builder);
  return builder.take();
}

void check_json_tokens(std::string_view text, const std::string& place) {
  const auto check_length = [&](std::size_t begin, std::size_t end) {
    if (end - begin > kMaxJsonTokenBytes) {
      throw_bad_input(place, fmt::format("no JSON token above {} bytes", kMaxJsonTokenBytes),
                      fmt::format("{} bytes at byte {}", end - begin, begin));
    }
  };
  bool in_string = false;
  std::size_t token_begin = 0;
  for (std::size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    if (c == '\0') throw_bad_input(place, "valid JSON", fmt::format("a NUL at byte {}", i));
    if (in_string && c == '\\') {
      ++i;  // whatever is escaped does not end the string
    } else if (c == '"' || (!in_string && (c == ',' || c == ':' || c == '[' || c == ']'))) {
      check_length(token_begin, i);
      token_begin = i + 1;
      if (c == '"') in_string = !in_string;
    }
  }
  check_length(token_begin, text.size());
}

std::string describe_json(const Json& value) {
  return fmt::format("{} {}", value.type_name(),
                     cut(value.dump(-1, ' ', false, Json::error_handler_t::replace)));
}

std::string quote_name(std::string_view name) {
  constexpr std::size_t kEnough = 64;
  const Json text(std::string(name.substr(0, kEnough)));
  return cut(text.dump(-1, ' ', /*ensure_ascii=*/true, Json::error_handler_t::replace));
}

void throw_json_error(const std::string& place, std::size_t position, const std::exception& e) {
  std::string what = e.what();
  const std::size_t colon = what.find(": ");
  if (colon != std::string::npos) what = what.substr(colon + 2);
  constexpr std::size_t kShown = 200;
  if (what.size() > kShown) what = what.substr(0, kShown) + "...";
  throw_bad_input(place, "valid JSON", fmt::format("an error at byte {} ({})", position, what));
}

}  // namespace loza
