#include <fmt/format.h>
#include <gtest/gtest.h>

#include <fstream>
#include <string>
#include <thread>
#include <vector>

#include "loza/base/random.h"
#include "loza/checkpoint/checkpoint.h"
#include "loza/checkpoint/safetensors_writer.h"
#include "tests/checkpoint/files/safetensors_bytes.h"
#include "tests/support/hostile.h"
#include "tests/support/temp_folder.h"

namespace loza {
namespace {
namespace fs = std::filesystem;
using testing::bytes_of;
using testing::safetensors_bytes;
using testing::TempFolder;
using testing::with_header_length;

std::span<const std::byte> as_bytes(const std::string& text) {
  return std::as_bytes(std::span(text.data(), text.size()));
}

std::string as_text(std::span<const std::byte> bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

// "name":{"dtype":...,"shape":[...],"data_offsets":[...]}
std::string tensor(const std::string& name, const std::string& dtype, const std::string& shape,
                   const std::string& offsets) {
  return fmt::format(R"("{}":{{"dtype":"{}","shape":[{}],"data_offsets":[{}]}})", name, dtype,
                     shape, offsets);
}

TEST(Safetensors, ReadsWhatItWrote) {
  const TempFolder folder;
  Random random(1);
  std::string data(1000, '\0');
  for (char& c : data) c = static_cast<char>(random.next());
  const std::vector<TensorEntry> entries = {
      {"bytes", "U8", {3}, as_bytes(data).first(3)},
      {"half", "BF16", {2, 3}, as_bytes(data).subspan(3, 12)},
      {"float", "F32", {5}, as_bytes(data).subspan(15, 20)},
      {"scalar", "F64", {}, as_bytes(data).subspan(35, 8)},
      {"none", "F32", {4, 0, 2}, {}},
      {"long", "I64", {1, 2, 1, 1, 1, 1, 1, 1}, as_bytes(data).subspan(43, 16)},
      {"odd \"name\" \xC3\xA9", "F16", {1}, as_bytes(data).subspan(59, 2)},
  };
  write_safetensors(folder / "a.safetensors", entries, {{"format", "pt"}, {"note", "\"x\""}});
  const SafetensorsFile file(folder / "a.safetensors");
  EXPECT_EQ(file.metadata().at("format"), "pt");
  EXPECT_EQ(file.metadata().at("note"), "\"x\"");
  ASSERT_EQ(file.tensors().size(), entries.size());
  for (const TensorEntry& entry : entries) {
    const TensorEntry& read = file.tensors().at(entry.name);
    EXPECT_EQ(read.name, entry.name);
    EXPECT_EQ(read.dtype, entry.dtype);
    EXPECT_EQ(read.shape, entry.shape);
    EXPECT_EQ(as_text(read.bytes), as_text(entry.bytes)) << entry.name;
    // transformers needs each tensor aligned to its element.
    const auto address = reinterpret_cast<std::uintptr_t>(read.bytes.data());
    if (!read.bytes.empty()) {
      EXPECT_EQ(address % safetensors_element_bytes(read.dtype), 0u) << entry.name;
    }
  }
  EXPECT_EQ(std::distance(fs::directory_iterator(folder.path()), {}), 1);
}

TEST(Safetensors, ReadsAnyOrderSpacesAndNothing) {
  const TempFolder folder;
  const std::string header = " {\n" + tensor("b", "U8", "2", "4,6") + " , " +
                             tensor("z", "F32", "0", "4,4") + "," + tensor("a", "F32", "1", "0,4") +
                             "}   ";
  EXPECT_THROW(SafetensorsFile(folder.write("a", safetensors_bytes(header, 6))), Error)
      << "the header must begin with its brace";
  const SafetensorsFile file(folder.write("a", safetensors_bytes(header.substr(1), 6)));
  EXPECT_EQ(file.tensors().size(), 3u);
  EXPECT_EQ(file.tensors().at("b").bytes.size(), 2u);
  EXPECT_TRUE(SafetensorsFile(folder.write("b", safetensors_bytes("{}"))).tensors().empty());
  EXPECT_EQ(SafetensorsFile(folder.write("c", safetensors_bytes(R"({"__metadata__":{"a":"b"}})")))
                .metadata()
                .at("a"),
            "b");
}

TEST(Safetensors, HostileFiles) {
  const TempFolder folder;
  testing::HostileSuite suite("safetensors");
  const auto expect = [&](const std::string& name, const std::string& fragment,
                          const std::string& bytes) {
    const fs::path path = folder.write("a.safetensors", bytes);
    suite.expect_bad_input(
        name, fragment, [&] { SafetensorsFile file(path); }, bytes.size());
  };
  const auto expect_header = [&](const std::string& name, const std::string& fragment,
                                 const std::string& header, std::size_t num_data_bytes = 4) {
    expect(name, fragment, safetensors_bytes(header, num_data_bytes));
  };
  const std::string good = "{" + tensor("a", "F32", "1", "0,4") + "}";

  suite.expect_bad_input("no file", "readable file",
                         [&] { SafetensorsFile file(folder / "missing"); });
  suite.expect_bad_input("a folder", "regular file", [&] { SafetensorsFile file(folder.path()); });

  // The header's length.
  expect("empty", "at least 8 bytes", "");
  expect("7 bytes", "at least 8 bytes", std::string(7, '\0'));
  expect("length 0", "begins with '{'", std::string(8, '\0'));
  expect("length 0 and data", "begins with '{'", std::string(100, '\0'));
  expect("one byte too long", "a header of at most 2 bytes", with_header_length(3, "{}"));
  expect("length 2^64 - 1", "a header of at most", with_header_length(~std::uint64_t{0}, good));
  expect("length 2^63", "a header of at most", with_header_length(std::uint64_t{1} << 63, good));
  expect("length that wraps", "a header of at most",
         with_header_length(~std::uint64_t{0} - 7, good));
  expect("length one short", "valid JSON", with_header_length(good.size() - 1, good + "xxxx"));
  expect("length into the data", "in order and within",
         with_header_length(good.size() + 2, good + "xxxx"));

  // What the header is.
  expect_header("text", "begins with '{'", "hello");
  expect_header("array", "begins with '{'", "[]");
  expect_header("space first", "begins with '{'", " " + good);
  expect_header("byte order mark", "begins with '{'", "\xEF\xBB\xBF" + good);
  expect_header("open brace", "valid JSON", "{");
  expect_header("two objects", "valid JSON", good + good);
  expect_header("NUL padding", "a NUL", good + std::string(3, '\0'));
  expect_header("invalid UTF-8 in a name", "valid JSON",
                "{" + tensor("\xff", "F32", "1", "0,4") + "}");
  expect_header("overlong UTF-8", "valid JSON", "{" + tensor("\xC0\x80", "F32", "1", "0,4") + "}");
  expect_header("trailing comma", "valid JSON", good.substr(0, good.size() - 1) + ",}");
  expect_header("deep array", "whole numbers",
                R"({"a":{"dtype":"F32","shape":)" + std::string(100000, '['));
  expect_header("deep object", "an array for ",
                R"({"a":{"dtype":"F32","shape":{"x":{"y":{"z":{}}}}}})");
  expect_header("number for a tensor", "an object of tensors", R"({"a":4})");
  expect_header("string for a tensor", "an object of tensors", R"({"a":"F32"})");
  expect_header("array for a tensor", "an object of tensors", R"({"a":[]})");
  expect_header("null for a tensor", "an object of tensors", R"({"a":null})");
  expect_header("boolean for a tensor", "an object of tensors", R"({"a":true})");
  expect_header("negative for a tensor", "an object of tensors", R"({"a":-1})");
  expect_header("float for a tensor", "an object of tensors", R"({"a":1.5})");

  // Names.
  expect_header("name twice", "\"a\" twice",
                "{" + tensor("a", "F32", "1", "0,4") + "," + tensor("a", "F32", "1", "4,8") + "}",
                8);
  expect_header(
      "name twice by escape", "\"a\" twice",
      "{" + tensor("a", "F32", "1", "0,4") + "," + tensor("\\u0061", "F32", "1", "4,8") + "}", 8);
  expect_header("metadata twice", "__metadata__", R"({"__metadata__":{},"__metadata__":{}})", 0);
  expect_header("metadata of numbers", "__metadata__", R"({"__metadata__":{"a":1}})", 0);
  expect_header("metadata nested", "__metadata__", R"({"__metadata__":{"a":{"b":"c"}}})", 0);
  expect_header("metadata a string", "an object of tensors", R"({"__metadata__":"a"})", 0);
  expect_header("metadata key twice", "\"k\" twice", R"({"__metadata__":{"k":"1","k":"2"}})", 0);

  // A tensor's fields.
  expect_header("no fields", "a dtype", R"({"a":{}})");
  expect_header("no dtype", "a dtype", R"({"a":{"shape":[1],"data_offsets":[0,4]}})");
  expect_header("no shape", "a shape", R"({"a":{"dtype":"F32","data_offsets":[0,4]}})");
  expect_header("no offsets", "two data_offsets", R"({"a":{"dtype":"F32","shape":[1]}})");
  expect_header("dtype twice", "\"dtype\" twice",
                R"({"a":{"dtype":"F32","dtype":"F32","shape":[1],"data_offsets":[0,4]}})");
  expect_header("shape twice", "\"shape\" twice",
                R"({"a":{"dtype":"F32","shape":[1],"shape":[1],"data_offsets":[0,4]}})");
  expect_header("another field", "dtype, shape and data_offsets alone",
                R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4],"stride":[1]}})");
  expect_header("dtype unknown", "\"F4\"", "{" + tensor("a", "F4", "1", "0,4") + "}");
  expect_header("dtype in small letters", "\"f32\"", "{" + tensor("a", "f32", "1", "0,4") + "}");
  expect_header("dtype empty", "a dtype that loza knows", "{" + tensor("a", "", "1", "0,4") + "}");
  expect_header("dtype a number", "a string for dtype",
                R"({"a":{"dtype":32,"shape":[1],"data_offsets":[0,4]}})");
  expect_header("dtype an array", "a string for dtype",
                R"({"a":{"dtype":["F32"],"shape":[1],"data_offsets":[0,4]}})");
  expect_header("shape a number", "an array for shape",
                R"({"a":{"dtype":"F32","shape":1,"data_offsets":[0,4]}})");
  expect_header("shape negative", "whole numbers", "{" + tensor("a", "F32", "-1", "0,4") + "}");
  expect_header("shape a float", "whole numbers", "{" + tensor("a", "F32", "1.0", "0,4") + "}");
  expect_header("shape a string", "whole numbers", "{" + tensor("a", "F32", "\"1\"", "0,4") + "}");
  expect_header("shape null", "whole numbers", "{" + tensor("a", "F32", "null", "0,4") + "}");
  expect_header("shape 2^64", "whole numbers",
                "{" + tensor("a", "F32", "18446744073709551616", "0,4") + "}");
  expect_header("shape 2^63", "below 2^63",
                "{" + tensor("a", "F32", "9223372036854775808", "0,4") + "}");
  expect_header("rank 9", "at most 8", "{" + tensor("a", "F32", "1,1,1,1,1,1,1,1,1", "0,4") + "}");
  expect_header("rank of a million", "at most 8",
                "{" +
                    tensor(
                        "a", "F32",
                        [] {
                          std::string ones = "1";
                          for (int i = 0; i < 1000000; ++i) ones += ",1";
                          return ones;
                        }(),
                        "0,4") +
                    "}");
  expect_header("size wraps to 4", "below 2^64",
                "{" + tensor("a", "F32", "4611686018427387905", "0,4") + "}");
  expect_header("product wraps to 0", "below 2^64",
                "{" + tensor("a", "F32", "4294967296,4294967296", "0,0") + "}", 0);
  expect_header("product wraps before a 0", "below 2^64",
                "{" + tensor("a", "F32", "4294967296,4294967296,0", "0,0") + "}", 0);

  // Offsets.
  expect_header("offsets a number", "an array for data_offsets",
                R"({"a":{"dtype":"F32","shape":[1],"data_offsets":4}})");
  expect_header("one offset", "two data_offsets", "{" + tensor("a", "F32", "1", "0") + "}");
  expect_header("three offsets", "two data_offsets", "{" + tensor("a", "F32", "1", "0,4,8") + "}");
  expect_header("negative offset", "whole numbers", "{" + tensor("a", "F32", "1", "-4,0") + "}");
  expect_header("float offset", "whole numbers", "{" + tensor("a", "F32", "1", "0,4e0") + "}");
  expect_header("offsets in an array", "whole numbers",
                "{" + tensor("a", "F32", "1", "[0,4]") + "}");
  expect_header("end before begin", "in order and within",
                "{" + tensor("a", "F32", "1", "4,0") + "}");
  expect_header("beyond the file", "in order and within",
                "{" + tensor("a", "F32", "2", "0,8") + "}");
  expect_header("end 2^64 - 1", "in order and within",
                "{" + tensor("a", "F32", "1", "18446744073709551611,18446744073709551615") + "}");
  expect_header("too few bytes", "8 bytes for F32 [2]", "{" + tensor("a", "F32", "2", "0,4") + "}");
  expect_header("too many bytes", "4 bytes for F32 [1]", "{" + tensor("a", "F32", "1", "0,8") + "}",
                8);
  expect_header("bytes for an empty tensor", "0 bytes for F32 [0]",
                "{" + tensor("a", "F32", "0", "0,4") + "}");
  expect_header("data without tensors", "up to the end", "{}");
  expect_header("data after the last", "up to the end", good, 5);
  expect_header("data truncated", "in order and within", good, 3);
  expect_header("gap at the beginning", "begins at byte 0",
                "{" + tensor("a", "F32", "1", "4,8") + "}", 8);
  expect_header("gap between", "begins at byte 4",
                "{" + tensor("a", "F32", "1", "0,4") + "," + tensor("b", "F32", "1", "8,12") + "}",
                12);
  expect_header("overlap", "an overlap",
                "{" + tensor("a", "F32", "2", "0,8") + "," + tensor("b", "F32", "2", "4,12") + "}",
                12);
  expect_header("the same place twice", "an overlap",
                "{" + tensor("a", "F32", "1", "0,4") + "," + tensor("b", "F32", "1", "0,4") + "}");
  expect_header("inside another", "an overlap",
                "{" + tensor("a", "U8", "12", "0,12") + "," + tensor("b", "F32", "1", "4,8") + "}",
                12);
  expect_header("empty tensor in the middle of another", "an overlap",
                "{" + tensor("a", "U8", "4", "0,4") + "," + tensor("b", "U8", "0", "2,2") + "}");

  // Size.
  expect_header("a name of 9 MiB", "no JSON token above",
                "{" + tensor(std::string(9 << 20, 'a'), "F32", "1", "0,4") + "}");
  expect_header("a digit string of 9 MiB", "no JSON token above",
                "{" + tensor("a", "F32", std::string(9 << 20, '1'), "0,4") + "}");
  expect_header("9 MiB of spaces", "no JSON token above", good + std::string(9 << 20, ' '));
  std::string many = "{";
  for (int i = 0; i <= 1 << 17; ++i) many += tensor(std::to_string(i), "U8", "0", "0,0") + ",";
  many.back() = '}';
  expect_header("too many tensors", "at most 131072 tensors", many, 0);
  std::string notes = R"({"__metadata__":{)";
  for (int i = 0; i <= 1 << 16; ++i) notes += fmt::format(R"("{}":"",)", i);
  notes.back() = '}';
  expect_header("too much metadata", "at most 65536 entries", notes + "}", 0);
}

// A header of 100,000,001 bytes is refused unread, in a sparse file that holds it.
TEST(Safetensors, HeaderLengthHasALimit) {
  const TempFolder folder;
  const fs::path path = folder.write("a", with_header_length(100'000'001, "{"));
  fs::resize_file(path, 200'000'000);
  testing::HostileSuite suite("long header");
  suite.expect_bad_input("over the limit", "at most 100000000",
                         [&] { SafetensorsFile file(path); });
  folder.write("a", with_header_length(100'000'000, "{"));
  fs::resize_file(path, 200'000'000);
  suite.expect_bad_input("at the limit, of zeros", "a NUL at byte 1",
                         [&] { SafetensorsFile file(path); });
}

TEST(Safetensors, EveryTruncationIsRefused) {
  const TempFolder folder;
  const std::string whole = safetensors_bytes(
      "{" + tensor("a", "F32", "2", "0,8") + "," + tensor("b", "U8", "3", "8,11") + "}", 11);
  ASSERT_NO_THROW(SafetensorsFile(folder.write("a", whole)));
  testing::HostileSuite suite("safetensors truncated");
  for (std::size_t size = 0; size < whole.size(); ++size) {
    const fs::path path = folder.write("a", whole.substr(0, size));
    suite.expect_bad_input(std::to_string(size), path.string(),
                           [&] { SafetensorsFile file(path); });
  }
}

// Every byte of the header, changed in three of its bits: either an error of ours or a file whose
// tensors lie inside the data.
TEST(Safetensors, BitFlipsAreSurvived) {
  const TempFolder folder;
  const std::string whole = safetensors_bytes(
      "{" + tensor("a", "F32", "2", "0,8") + "," + tensor("b", "U8", "3", "8,11") + "}", 11);
  int num_refused = 0, num_read = 0;
  for (std::size_t i = 0; i + 11 < whole.size(); ++i) {
    for (const int bit : {0, 5, 7}) {
      std::string bytes = whole;
      bytes[i] = static_cast<char>(bytes[i] ^ (1 << bit));
      const fs::path path = folder.write("a", bytes);
      try {
        const SafetensorsFile file(path);
        std::size_t num_bytes = 0;
        for (const auto& [name, entry] : file.tensors()) num_bytes += entry.bytes.size();
        EXPECT_EQ(num_bytes, 11u);
        ++num_read;
      } catch (const Error& e) {
        EXPECT_EQ(e.code(), ExitCode::kBadInput) << e.what();
        ++num_refused;
      }
    }
  }
  EXPECT_GT(num_refused, 250);
  EXPECT_GT(num_read, 0) << "other names are fine";
}

TEST(SafetensorsWriter, TakesPiecesFromManyThreads) {
  const TempFolder folder;
  std::string data(4096, '\0');
  for (std::size_t i = 0; i < data.size(); ++i) data[i] = static_cast<char>(i * 31 + i / 256);
  {
    SafetensorsWriter writer(folder / "a", {{"a", "U8", {4096}}, {"b", "F32", {2, 512}}});
    std::vector<std::thread> threads;
    for (std::uint64_t piece = 0; piece < 16; ++piece) {
      threads.emplace_back([&, piece] {
        for (std::size_t slot = 0; slot < 2; ++slot) {
          writer.write(slot, piece * 256, as_bytes(data).subspan(piece * 256, 256));
        }
      });
    }
    for (std::thread& thread : threads) thread.join();
    EXPECT_FALSE(fs::exists(folder / "a")) << "visible before it is complete";
    writer.commit();
  }
  const SafetensorsFile file(folder / "a");
  EXPECT_EQ(as_text(file.tensors().at("a").bytes), data);
  EXPECT_EQ(as_text(file.tensors().at("b").bytes), data);
}

TEST(SafetensorsWriter, LeavesNothingWithoutCommit) {
  const TempFolder folder;
  folder.write("a", "old");
  { SafetensorsWriter writer(folder / "a", {{"a", "F32", {8}}}); }
  EXPECT_EQ(bytes_of(folder / "a"), "old");
  EXPECT_EQ(std::distance(fs::directory_iterator(folder.path()), {}), 1);
}

TEST(SafetensorsWriter, ChecksItsCaller) {
  const TempFolder folder;
  const std::string four = "1234";
  SafetensorsWriter writer(folder / "a", {{"a", "F32", {1}}});
  EXPECT_THROW(writer.write(1, 0, as_bytes(four)), std::logic_error);
  EXPECT_THROW(writer.write(0, 1, as_bytes(four)), std::logic_error);
  EXPECT_THROW(writer.commit(), std::logic_error) << "nothing was written";
  EXPECT_THROW(SafetensorsWriter(folder / "b", {{"a", "F32", {1}}, {"a", "F32", {1}}}),
               std::logic_error);
  EXPECT_THROW(SafetensorsWriter(folder / "b", {{"a", "F3", {1}}}), std::logic_error);
  EXPECT_THROW(write_safetensors(folder / "b", {{"a", "F32", {2}, as_bytes(four)}}),
               std::logic_error);
}

TEST(SafetensorsWriter, FailsWithWhatTheSystemSays) {
  const TempFolder folder;
  try {
    SafetensorsWriter writer(folder / "missing/a", {});
    FAIL();
  } catch (const Error& e) {
    EXPECT_EQ(e.code(), ExitCode::kFailed);
  }
}

}  // namespace
}  // namespace loza
