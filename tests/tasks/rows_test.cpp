#include "loza/tasks/rows.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <string>

#include "loza/base/error.h"
#include "loza/base/file.h"

namespace loza {
namespace {

TEST(Rows, ReadsEachForm) {
  const auto rows = parse_rows(
      "{\"text\": \"plain \\u4e2d\"}\n"
      "{\"prompt\": \"2 + 2 = \", \"answer\": \"4\"}\r\n"
      "{\"turns\": [[\"a?\", \"b\"], [\"\", \"d\"]], \"prompt\": \"p\"}\n"
      "{\"prompt\": \"\", \"turns\": [[\"a?\", \"b\"]]}",
      "rows.jsonl");
  ASSERT_EQ(rows.size(), 4u);
  EXPECT_EQ(rows[0].prompt, "plain \xE4\xB8\xAD");
  EXPECT_TRUE(rows[0].turns.empty());
  EXPECT_EQ(rows[1].prompt, "2 + 2 = ");
  ASSERT_EQ(rows[1].turns.size(), 1u);
  EXPECT_EQ(rows[1].turns[0].question, "");
  EXPECT_EQ(rows[1].turns[0].answer, "4");
  EXPECT_TRUE(rows[1].turns[0].scored);
  ASSERT_EQ(rows[2].turns.size(), 2u);
  EXPECT_EQ(rows[2].turns[0].question, "a?");
  EXPECT_EQ(rows[2].turns[1].answer, "d");
  EXPECT_TRUE(rows[2].turns[0].scored);
  EXPECT_EQ(rows[3].prompt, "");
}

TEST(Rows, HostileRowsFailWithTheirLine) {
  const std::string deep = "{\"text\": " + std::string(100, '[') + std::string(100, ']') + "}";
  const std::string hostile[] = {
      "",
      " ",
      "{",
      "}",
      "null",
      "1",
      "\"text\"",
      "[]",
      "[\"text\"]",
      "{}",
      "{\"text\": }",
      "{\"text\": \"a\"",
      "{\"text\": \"a\"}}",
      "{\"text\": \"a\"} {\"text\": \"b\"}",
      "{'text': 'a'}",
      "{\"text\": \"a\",}",
      "{\"text\": null}",
      "{\"text\": 1}",
      "{\"text\": [\"a\"]}",
      "{\"text\": \"\"}",
      "{\"text\": \"a\", \"text\": \"b\"}",
      "{\"text\": \"a\", \"answer\": \"b\"}",
      "{\"text\": \"a\", \"extra\": 1}",
      "{\"Text\": \"a\"}",
      "{\"text\": \"\xFF\"}",
      "{\"text\": \"\xED\xA0\x80\"}",
      "{\"text\": \"\\ud800\"}",
      "{\"text\": \"a\tb\"}",
      deep,
      "{\"prompt\": \"p\"}",
      "{\"answer\": \"a\"}",
      "{\"prompt\": \"\", \"answer\": \"a\"}",
      "{\"prompt\": \"p\", \"answer\": \"\"}",
      "{\"prompt\": \"p\", \"answer\": 4}",
      "{\"prompt\": 4, \"answer\": \"a\"}",
      "{\"prompt\": \"p\", \"answer\": \"a\", \"turns\": []}",
      "{\"prompt\": \"p\", \"turns\": []}",
      "{\"prompt\": \"p\", \"turns\": {}}",
      "{\"prompt\": \"p\", \"turns\": \"q\"}",
      "{\"prompt\": \"p\", \"turns\": [\"q\", \"a\"]}",
      "{\"prompt\": \"p\", \"turns\": [[]]}",
      "{\"prompt\": \"p\", \"turns\": [[\"q\"]]}",
      "{\"prompt\": \"p\", \"turns\": [[\"q\", \"a\", \"b\"]]}",
      "{\"prompt\": \"p\", \"turns\": [[\"q\", \"a\"], [\"q\", \"\"]]}",
      "{\"prompt\": \"p\", \"turns\": [[\"q\", null]]}",
      "{\"prompt\": \"p\", \"turns\": [[1, \"a\"]]}",
      "{\"prompt\": null, \"turns\": [[\"q\", \"a\"]]}",
      "{\"prompt\": \"\", \"turns\": [[\"\", \"a\"]]}",
      "{\"turns\": [[\"q\", \"a\"]]}",
      "\xEF\xBB\xBF{\"text\": \"a\"} x",
      std::string("{\"text\": \"a\"}\0", 14),
  };
  int cases = 0;
  for (const std::string& row : hostile) {
    const std::string good = "{\"text\": \"fine\"}\n";
    const std::string jsonl = good + good + row + "\n" + good;
    try {
      parse_rows(jsonl, "rows.jsonl");
      ADD_FAILURE() << "accepted: " << row;
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ExitCode::kBadInput) << row;
      EXPECT_EQ(error.text().place.rfind("rows.jsonl:3", 0), 0u) << error.what();
      EXPECT_EQ(std::string(error.what()).find('\n'), std::string::npos);
    }
    ++cases;
  }
  EXPECT_GE(cases, 30);
  std::printf("hostile rows: %d\n", cases);
}

class RowFiles : public ::testing::Test {
 protected:
  void SetUp() override {
    folder_ = std::filesystem::temp_directory_path() / ("loza-rows-" + std::to_string(::getpid()));
    std::filesystem::create_directories(folder_);
  }
  void TearDown() override { std::filesystem::remove_all(folder_); }
  std::filesystem::path write(const char* name, const std::string& bytes) const {
    write_file_atomic(folder_ / name, bytes);
    return folder_ / name;
  }
  std::filesystem::path folder_;
};

TEST_F(RowFiles, ATextFileIsOneDocument) {
  const auto rows = load_rows(write("notes.txt", "{\"text\": \"not parsed\"}\nline two"));
  ASSERT_EQ(rows.size(), 1u);
  EXPECT_EQ(rows[0].prompt, "{\"text\": \"not parsed\"}\nline two");
  EXPECT_TRUE(rows[0].turns.empty());
}

TEST_F(RowFiles, AJsonlFileIsManyDocuments) {
  EXPECT_EQ(load_rows(write("rows.jsonl", "{\"text\": \"a\"}\n{\"text\": \"b\"}\n")).size(), 2u);
}

TEST_F(RowFiles, BadFilesAreRefused) {
  EXPECT_THROW(load_rows(folder_ / "absent.jsonl"), Error);
  EXPECT_THROW(load_rows(folder_), Error);
  EXPECT_THROW(load_rows(write("empty.txt", "")), Error);
  EXPECT_THROW(load_rows(write("empty.jsonl", "")), Error);
  EXPECT_THROW(load_rows(write("binary.txt", std::string("GGUF\x03\0\0\0\xFF\xFE", 10))), Error);
}

}  // namespace
}  // namespace loza
