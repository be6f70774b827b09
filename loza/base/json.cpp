#include "loza/base/json.h"

#include <fmt/format.h>

#include <unordered_set>
#include <vector>

#include "loza/base/error.h"

namespace loza {
namespace {

// Walks the text once, building nothing: finds what nlohmann's DOM parser would accept
// silently (duplicate names) or recurse into (depth).
class StrictScan : public nlohmann::json_sax<Json> {
 public:
  StrictScan(const std::string& place, JsonLimits limits) : place_(place), limits_(limits) {}

  bool null() override { return true; }
  bool boolean(bool) override { return true; }
  bool number_integer(number_integer_t) override { return true; }
  bool number_unsigned(number_unsigned_t) override { return true; }
  bool number_float(number_float_t, const string_t&) override { return true; }
  bool string(string_t&) override { return true; }
  bool binary(binary_t&) override { return true; }
  bool start_object(std::size_t) override {
    enter();
    names_.emplace_back();
    return true;
  }
  bool key(string_t& name) override {
    if (!names_.back().insert(name).second) {
      throw_bad_input(place_, "each name once in an object",
                      fmt::format("the name {} twice", describe_json(name)));
    }
    return true;
  }
  bool end_object() override {
    --depth_;
    names_.pop_back();
    return true;
  }
  bool start_array(std::size_t) override {
    enter();
    return true;
  }
  bool end_array() override {
    --depth_;
    return true;
  }
  bool parse_error(std::size_t position, const std::string&,
                   const nlohmann::detail::exception& e) override {
    std::string what = e.what();
    const std::size_t colon = what.find(": ");
    if (colon != std::string::npos) what = what.substr(colon + 2);
    throw_bad_input(place_, "valid JSON", fmt::format("an error at byte {} ({})", position, what));
  }

 private:
  void enter() {
    if (++depth_ > limits_.max_depth) {
      throw_bad_input(place_, fmt::format("JSON nested at most {} deep", limits_.max_depth),
                      "deeper nesting");
    }
  }

  const std::string& place_;
  JsonLimits limits_;
  int depth_ = 0;
  std::vector<std::unordered_set<std::string>> names_;
};

}  // namespace

Json parse_json(std::string_view text, const std::string& place, JsonLimits limits) {
  StrictScan scan(place, limits);
  Json::sax_parse(text, &scan);
  return Json::parse(text);
}

std::string describe_json(const Json& value) {
  constexpr std::size_t kShown = 60;
  std::string dumped = value.dump(-1, ' ', false, Json::error_handler_t::replace);
  if (dumped.size() > kShown) dumped = dumped.substr(0, kShown) + "...";
  return fmt::format("{} {}", value.type_name(), dumped);
}

}  // namespace loza
