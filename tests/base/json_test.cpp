#include "loza/base/json.h"

#include <gtest/gtest.h>

#include <chrono>
#include <string>

#include "tests/support/hostile.h"

namespace loza {
namespace {

TEST(Json, KeepsOrderAndValues) {
  const Json value = parse_json(R"({"b": [1, -2, 2.5, true, null], "a": {"x": "é"}})", "here");
  EXPECT_EQ(value.dump(), R"({"b":[1,-2,2.5,true,null],"a":{"x":"é"}})");
  EXPECT_TRUE(value["b"][0].is_number_unsigned());
  EXPECT_TRUE(value["b"][1].is_number_integer());
  EXPECT_TRUE(value["b"][2].is_number_float());
}

TEST(Json, AgreesWithNlohmannOnValidTexts) {
  for (const char* text :
       {"0", "\"\"", "[]", "{}", "[[],{},[{}]]", " [1 , 2 ]\n", R"({"a":{"b":{"c":[1,{"d":2}]}}})",
        R"(["\u00e9\n\"\\","\ud83d\ude00"])", "18446744073709551615", "-9223372036854775808",
        "1e308", R"({"":0," ":1})", "\xEF\xBB\xBF[1]"}) {
    EXPECT_EQ(parse_json(text, "here"), Json::parse(text)) << text;
  }
}

TEST(Json, RefusesWhatIsNotStrict) {
  testing::HostileSuite suite("json");
  const struct {
    const char* name;
    std::string text;
    const char* fragment;
  } kCases[] = {
      {"empty", "", "valid JSON"},
      {"spaces", "   ", "valid JSON"},
      {"two values", "{} {}", "valid JSON"},
      {"trailing comma", "[1,]", "valid JSON"},
      {"comment", "[1] // one", "valid JSON"},
      {"single quotes", "{'a':1}", "valid JSON"},
      {"NaN", "[NaN]", "valid JSON"},
      {"Infinity", "[-Infinity]", "valid JSON"},
      {"beyond double", "[1e999]", "valid JSON"},
      {"leading zero", "[01]", "valid JSON"},
      {"open array", "[1", "valid JSON"},
      {"open string", "\"abc", "valid JSON"},
      {"mismatched", "[1}", "valid JSON"},
      {"name twice", R"({"a":1,"a":2})", "\"a\" twice"},
      {"name twice inside", R"([{"x":{"b":1,"c":2,"b":3}}])", "\"b\" twice"},
      {"name twice by escape", R"({"a":1,"\u0061":2})", "\"a\" twice"},
      {"invalid UTF-8", "[\"\xff\"]", "valid JSON"},
      {"overlong UTF-8", "[\"\xc0\xaf\"]", "valid JSON"},
      {"half a surrogate", R"(["\ud800"])", "valid JSON"},
      {"surrogate in UTF-8", "[\"\xed\xa0\x80\"]", "valid JSON"},
      {"NUL after the value", std::string("{}\0garbage", 10), "a NUL at byte 2"},
      {"NUL in a string", std::string("[\"a\0b\"]", 7), "a NUL at byte 3"},
      {"control character in a string", "[\"a\nb\"]", "valid JSON"},
      {"65 deep", std::string(65, '[') + std::string(65, ']'), "at most 64 deep"},
      {"a million deep", std::string(1000000, '['), "at most 64 deep"},
      {"a million deep, objects",
       [] {
         std::string text;
         for (int i = 0; i < 1000000; ++i) text += "{\"a\":";
         return text;
       }(),
       "at most 64 deep"},
      {"a string of 9 MiB", "\"" + std::string(9 << 20, 'a') + "\"", "no JSON token above"},
      {"a number of 9 MiB", std::string(9 << 20, '1'), "no JSON token above"},
      {"9 MiB of spaces", "{" + std::string(9 << 20, ' ') + "}", "no JSON token above"},
  };
  for (const auto& c : kCases) {
    suite.expect_bad_input(
        c.name, c.fragment, [&] { parse_json(c.text, "here"); }, c.text.size());
  }
}

TEST(Json, DepthIsALimitNotARule) {
  EXPECT_NO_THROW(parse_json(std::string(64, '[') + std::string(64, ']'), "here"));
  EXPECT_NO_THROW(parse_json("[[[]]]", "here", {.max_depth = 3}));
  EXPECT_THROW(parse_json("[[[[]]]]", "here", {.max_depth = 3}), Error);
}

TEST(Json, ErrorsBeginWithThePlace) {
  try {
    parse_json("[1,", "folder/config.json");
    FAIL();
  } catch (const Error& e) {
    EXPECT_EQ(std::string(e.what()).rfind("folder/config.json: expected valid JSON", 0), 0u)
        << e.what();
  }
}

// nlohmann's ordered object searches all names before it adds one.
TEST(Json, TimeIsLinearInTheNumberOfNames) {
  std::string text = "{";
  for (int i = 0; i < 200000; ++i)
    text += "\"name-" + std::to_string(i) + "\":" + std::to_string(i) + ",";
  text.back() = '}';
  const auto start = std::chrono::steady_clock::now();
  const Json value = parse_json(text, "here");
  const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
  EXPECT_EQ(value.size(), 200000u);
  if (!testing::kSanitized) {
    EXPECT_LT(seconds.count(), 3.0);
  }
}

TEST(Json, AppendedMembersAreMembers) {
  Json object = {{"a", 1}};
  append_member(object, "b", {1, 2});
  EXPECT_EQ(object["b"][1], 2);
  EXPECT_EQ(object.dump(), R"({"a":1,"b":[1,2]})");
}

TEST(Json, DescribesWithoutHarm) {
  EXPECT_EQ(describe_json(Json(1.5)), "number 1.5");
  EXPECT_EQ(describe_json(Json("x")), "string \"x\"");
  EXPECT_LT(describe_json(Json(std::string(100000, 'x'))).size(), 100u);
  EXPECT_EQ(quote_name("a\"b"), R"("a\"b")");
  EXPECT_EQ(quote_name("\x1b[31m\xc2\x9b"), R"("\u001b[31m\u009b")");
  EXPECT_EQ(quote_name("\xff").find('\xff'), std::string::npos);
  EXPECT_LT(quote_name(std::string(100000, 'x')).size(), 100u);
}

}  // namespace
}  // namespace loza
