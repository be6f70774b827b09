#include "loza/checkpoint/gguf_file.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>
#include <string>

#include "tests/checkpoint/files/gguf_bytes.h"
#include "tests/support/hostile.h"
#include "tests/support/temp_folder.h"

namespace loza {
namespace {
namespace fs = std::filesystem;
using testing::GgufBytes;
using testing::raw;
using testing::raw_string;
using testing::TempFolder;
using testing::tiny_gguf;

std::string array_of(GgufType type, std::uint64_t count, const std::string& items) {
  return raw(static_cast<std::uint32_t>(type)) + raw(count) + items;
}

TEST(GgufFile, ReadsEveryTypeOfValue) {
  GgufBytes bytes;
  bytes.set("u8", GgufType::kU8, raw<std::uint8_t>(200));
  bytes.set("i8", GgufType::kI8, raw<std::int8_t>(100));
  bytes.set("u16", GgufType::kU16, raw<std::uint16_t>(60000));
  bytes.set("i16", GgufType::kI16, raw<std::int16_t>(30000));
  bytes.set("u32", GgufType::kU32, raw<std::uint32_t>(4000000000u));
  bytes.set("i32", GgufType::kI32, raw<std::int32_t>(2000000000));
  bytes.set("u64", GgufType::kU64, raw<std::uint64_t>(1ull << 62));
  bytes.set("i64", GgufType::kI64, raw<std::int64_t>(1ll << 61));
  bytes.f32("f32", 1e-5f);
  bytes.set("f64", GgufType::kF64, raw(0.1));
  bytes.flag("yes", true);
  bytes.flag("no", false);
  bytes.text("text", "héllo");
  bytes.texts("texts", {"a", "", "ü"});
  bytes.i32s("i32s", {-1, 0, 7});
  bytes.set("i8s", GgufType::kArray, array_of(GgufType::kI8, 2, "\xff\x01"));
  bytes.set("nested", GgufType::kArray,
            array_of(GgufType::kArray, 2,
                     array_of(GgufType::kU8, 3, "abc") +
                         array_of(GgufType::kString, 1, raw_string("x"))));
  bytes.text("last", "still in step");
  const TempFolder folder;
  for (const std::uint32_t version : {2u, 3u}) {
    bytes.version = version;
    const GgufFile file(folder.write("a", bytes.bytes()));
    EXPECT_EQ(file.integer("u8"), 200);
    EXPECT_EQ(file.integer("i8"), 100);
    EXPECT_EQ(file.integer("u16"), 60000);
    EXPECT_EQ(file.integer("i16"), 30000);
    EXPECT_EQ(file.integer("u32"), 4000000000);
    EXPECT_EQ(file.integer("i32"), 2000000000);
    EXPECT_EQ(file.integer("u64"), 1ll << 62);
    EXPECT_EQ(file.integer("i64"), 1ll << 61);
    EXPECT_EQ(file.number("f32"), 1e-5) << "the shortest decimal, not the nearest double";
    EXPECT_EQ(file.number("f64"), 0.1);
    EXPECT_EQ(file.number("u8"), 200);
    EXPECT_TRUE(file.boolean("yes"));
    EXPECT_FALSE(file.boolean("no"));
    EXPECT_EQ(file.string("text"), "héllo");
    EXPECT_EQ(file.strings("texts"), (std::vector<std::string_view>{"a", "", "ü"}));
    EXPECT_EQ(file.integers("i32s"), (std::vector<std::int64_t>{-1, 0, 7}));
    EXPECT_EQ(file.integers("i8s"), (std::vector<std::int64_t>{-1, 1}));
    EXPECT_EQ(file.metadata().at("nested").num_items, 2u);
    EXPECT_EQ(file.string("last"), "still in step");
    EXPECT_TRUE(file.has("nested"));
    EXPECT_FALSE(file.has("neste"));
    EXPECT_TRUE(file.tensors().empty());
  }
}

TEST(GgufFile, PlacesTensorsByTheAlignment) {
  const TempFolder folder;
  for (const std::uint32_t alignment : {1u, 8u, 32u, 4096u}) {
    GgufBytes bytes;
    bytes.alignment = alignment;
    if (alignment != 32) bytes.u32("general.alignment", alignment);
    bytes.tensor("a", {3, 2, 5});
    bytes.tensor("b", {256, 3}, GgmlType::kQ6_K);
    bytes.tensor("c", {1, 1, 1, 7}, GgmlType::kBF16);
    const GgufFile file(folder.write("a", bytes.bytes()));
    ASSERT_EQ(file.tensors().size(), 3u);
    EXPECT_EQ(file.tensors()[0].shape, (std::vector<std::int64_t>{5, 2, 3}));
    EXPECT_EQ(file.tensors()[1].shape, (std::vector<std::int64_t>{3, 256}));
    for (std::size_t i = 0; i < 3; ++i) {
      const auto& tensor = file.tensors()[i];
      const std::string& data = bytes.tensors[i].data;
      ASSERT_EQ(tensor.bytes.size(), data.size());
      EXPECT_EQ(std::memcmp(tensor.bytes.data(), data.data(), data.size()), 0) << tensor.name;
    }
  }
}

TEST(GgufFile, GettersNameTheKeyAndTheType) {
  testing::HostileSuite suite("gguf values");
  GgufBytes bytes;
  bytes.f32("f32", 1.5f);
  bytes.f32("nan", std::nanf(""));
  bytes.f32("inf", std::numeric_limits<float>::infinity());
  bytes.set("minus", GgufType::kI32, raw<std::int32_t>(-1));
  bytes.set("huge", GgufType::kU64, raw(~std::uint64_t{0}));
  bytes.text("text", "x");
  bytes.text("binary", "a\xff");
  bytes.flag("flag", true);
  bytes.texts("texts", {"a"});
  bytes.texts("broken", {"a", "\xc0\x80"});
  bytes.i32s("i32s", {1});
  bytes.set("huges", GgufType::kArray, array_of(GgufType::kU64, 1, raw(~std::uint64_t{0})));
  bytes.set("f32s", GgufType::kArray, array_of(GgufType::kF32, 1, raw(1.0f)));
  bytes.set("long", GgufType::kArray,
            array_of(GgufType::kU8, (1 << 20) + 1, std::string((1 << 20) + 1, 'x')));
  const TempFolder folder;
  const GgufFile file(folder.write("a", bytes.bytes()));
  const auto expect = [&](const std::string& key, const std::string& fragment, auto&& body) {
    suite.expect_bad_input(key, key, body);
    suite.expect_bad_input(key, fragment, body);
  };
  expect("missing", "none", [&] { file.integer("missing"); });
  expect("missing", "none", [&] { file.strings("missing"); });
  expect("f32", "float32", [&] { file.integer("f32"); });
  expect("minus", "-1", [&] { file.integer("minus"); });
  expect("huge", "uint64", [&] { file.integer("huge"); });
  expect("flag", "bool", [&] { file.integer("flag"); });
  expect("i32s", "an array of 1 int32", [&] { file.integer("i32s"); });
  expect("nan", "nan", [&] { file.number("nan"); });
  expect("inf", "inf", [&] { file.number("inf"); });
  expect("text", "string", [&] { file.number("text"); });
  expect("flag", "bool", [&] { file.number("flag"); });
  expect("f32", "float32", [&] { file.boolean("f32"); });
  expect("flag", "bool", [&] { file.string("flag"); });
  expect("texts", "an array of 1 string", [&] { file.string("texts"); });
  expect("binary", "UTF-8", [&] { file.string("binary"); });
  expect("broken", "broken[1]", [&] { file.strings("broken"); });
  expect("i32s", "an array of 1 int32", [&] { file.strings("i32s"); });
  expect("texts", "an array of 1 string", [&] { file.integers("texts"); });
  expect("f32s", "an array of 1 float32", [&] { file.integers("f32s"); });
  expect("huges", "huges[0]", [&] { file.integers("huges"); });
  expect("long", "at most 1048576", [&] { file.integers("long"); });
  expect("text", "string", [&] { file.integers("text"); });
}

TEST(GgufFile, HostileFiles) {
  const TempFolder folder;
  testing::HostileSuite suite("gguf files");
  const auto expect_bytes = [&](const std::string& name, const std::string& fragment,
                                const std::string& bytes) {
    const fs::path path = folder.write("a.gguf", bytes);
    suite.expect_bad_input(
        name, fragment, [&] { GgufFile file(path); }, bytes.size());
  };
  const auto expect = [&](const std::string& name, const std::string& fragment, auto&& spoil) {
    GgufBytes file = tiny_gguf();
    spoil(file);
    expect_bytes(name, fragment, file.bytes());
  };
  const auto expect_value = [&](const std::string& name, const std::string& fragment,
                                std::uint32_t type, const std::string& bytes) {
    expect(name, fragment,
           [&](GgufBytes& file) { file.set("x", static_cast<GgufType>(type), bytes); });
  };
  const auto expect_tensor = [&](const std::string& name, const std::string& fragment,
                                 const GgufBytes::Tensor& tensor) {
    expect(name, fragment, [&](GgufBytes& file) { file.tensors.push_back(tensor); });
  };
  static constexpr std::uint64_t kMax = ~std::uint64_t{0};
  static constexpr std::uint64_t k63 = std::uint64_t{1} << 63;
  constexpr std::uint32_t kString = 8, kArray = 9;

  suite.expect_bad_input("no file", "readable file", [&] { GgufFile file(folder / "missing"); });
  suite.expect_bad_input("a folder", "regular file", [&] { GgufFile file(folder.path()); });

  // The head.
  expect_bytes("empty", "the magic at byte 0", "");
  expect_bytes("3 bytes", "the magic at byte 0", "GGU");
  expect_bytes("magic alone", "the version at byte 4", "GGUF");
  expect_bytes("no counts", "a number of tensors at byte 8", "GGUF" + raw<std::uint32_t>(3));
  expect_bytes("one count", "a number of metadata keys at byte 16",
               "GGUF" + raw<std::uint32_t>(3) + raw<std::uint64_t>(0));
  expect("another magic", "beginning with", [](GgufBytes& f) { f.magic = "GGML"; });
  expect("magic in small letters", "beginning with", [](GgufBytes& f) { f.magic = "gguf"; });
  expect("version 0", "version 0", [](GgufBytes& f) { f.version = 0; });
  expect("version 1", "version 1", [](GgufBytes& f) { f.version = 1; });
  expect("version 4", "version 4", [](GgufBytes& f) { f.version = 4; });
  expect("big-endian", "a big-endian file", [](GgufBytes& f) { f.version = 0x03000000; });
  expect("2^64 - 1 tensors", "a number of tensors that fits",
         [](GgufBytes& f) { f.num_tensors = kMax; });
  expect("2^63 tensors", "a number of tensors that fits",
         [](GgufBytes& f) { f.num_tensors = k63; });
  expect("2^64 - 1 keys", "a number of metadata keys that fits",
         [](GgufBytes& f) { f.num_values = kMax; });
  expect("2^32 keys", "a number of metadata keys that fits",
         [](GgufBytes& f) { f.num_values = std::uint64_t{1} << 32; });
  expect_bytes("70,000 keys", "at most 65536",
               "GGUF" + raw<std::uint32_t>(3) + raw<std::uint64_t>(0) + raw<std::uint64_t>(70000) +
                   std::string(2 << 20, '\1'));
  expect_bytes("70,000 tensors", "at most 65536",
               "GGUF" + raw<std::uint32_t>(3) + raw<std::uint64_t>(70000) + raw<std::uint64_t>(0) +
                   std::string(3 << 20, '\1'));
  expect("one key more than there are", "",
         [](GgufBytes& f) { f.num_values = f.values.size() + 1; });
  expect("one key fewer than there are", "",
         [](GgufBytes& f) { f.num_values = f.values.size() - 1; });
  expect("one tensor more than there are", "",
         [](GgufBytes& f) { f.num_tensors = f.tensors.size() + 1; });

  // Keys and values.
  expect("empty key", "1 to 255 bytes", [](GgufBytes& f) { f.values[2].key = ""; });
  expect("key of 256 bytes", "1 to 255 bytes",
         [](GgufBytes& f) { f.values[2].key = std::string(256, 'k'); });
  expect("key in no UTF-8", "a metadata key in UTF-8",
         [](GgufBytes& f) { f.values[2].key = "a\xff"; });
  expect("key twice", "\"llama.block_count\" twice",
         [](GgufBytes& f) { f.values.push_back(f.values[1]); });
  expect_bytes("key of 2^64 - 1 bytes", "the length of a metadata key",
               "GGUF" + raw<std::uint32_t>(3) + raw<std::uint64_t>(0) + raw<std::uint64_t>(1) +
                   raw(kMax) + std::string(100, 'x'));
  expect_value("type 13", "type 13", 13, "");
  expect_value("type 2^32 - 1", "type 4294967295", 0xFFFFFFFF, "");
  expect_value("bool 2", "a bool, 0 or 1", 7, "\2");
  expect_value("bool 255", "a bool, 0 or 1", 7, "\xff");
  expect_value("string of 2^64 - 1 bytes", "left", kString, raw(kMax));
  expect_value("string of 2^63 bytes", "left", kString, raw(k63) + "abc");
  expect_value("string that wraps", "left", kString, raw(kMax - 7) + "abc");
  expect_value("array of type 13", "type 13", kArray, array_of(GgufType(13), 1, "xxxx"));
  expect_value("empty array of type 99", "", kArray, array_of(GgufType(99), 1, ""));
  expect_value("array of 2^64 - 1 bytes", "the number of items", kArray,
               array_of(GgufType::kU8, kMax, "xxxx"));
  expect_value("array of 2^61 doubles, 2^64 bytes", "the number of items", kArray,
               array_of(GgufType::kF64, std::uint64_t{1} << 61, "xxxx"));
  expect_value("array of 2^62 + 1 words, 4 bytes when wrapped", "the number of items", kArray,
               array_of(GgufType::kU32, (std::uint64_t{1} << 62) + 1, "xxxx"));
  expect_value("array of 2^61 + 1 strings", "the number of items", kArray,
               array_of(GgufType::kString, (std::uint64_t{1} << 61) + 1, raw_string("a")));
  expect_value("array of 2^60 arrays", "the number of items", kArray,
               array_of(GgufType::kArray, std::uint64_t{1} << 60, array_of(GgufType::kU8, 0, "")));
  expect_value("array of strings with a long one", "left", kArray,
               array_of(GgufType::kString, 2, raw_string("a") + raw(kMax)));
  expect_value("array of bools with a 7", "a bool, 0 or 1", kArray,
               array_of(GgufType::kBool, 3, std::string("\0\1\7", 3)));
  const auto nested = [](int depth) {
    std::string bytes = array_of(GgufType::kU8, 1, "x");
    for (int i = 0; i < depth; ++i) bytes = array_of(GgufType::kArray, 1, bytes);
    return bytes;
  };
  expect_value("5 deep", "nested at most 4 deep", kArray, nested(4));
  expect_value("10,000 deep", "nested at most 4 deep", kArray, nested(10000));
  expect_value("nested with type 13", "type 13", kArray,
               array_of(GgufType::kArray, 1, array_of(GgufType(13), 1, "x")));

  // Alignment.
  for (const std::uint32_t alignment : {0u, 3u, 31u, 33u, 2097152u, 2147483648u, 4294967295u}) {
    expect("alignment " + std::to_string(alignment), "a power of two",
           [&](GgufBytes& f) { f.u32("general.alignment", alignment); });
  }
  expect("alignment a string", "general.alignment",
         [](GgufBytes& f) { f.text("general.alignment", "32"); });
  expect("alignment -32", "general.alignment",
         [](GgufBytes& f) { f.set("general.alignment", GgufType::kI32, raw<std::int32_t>(-32)); });
  expect("alignment 4096 where data has 32", "the offset",
         [](GgufBytes& f) { f.u32("general.alignment", 4096); });

  // Tensors.
  expect_tensor("empty name", "1 to 255 bytes", {"", {1}, 0, "xxxx", {}, {}});
  expect_tensor("long name", "1 to 255 bytes", {std::string(1000, 'n'), {1}, 0, "xxxx", {}, {}});
  expect_tensor("name in no UTF-8", "a tensor's name in UTF-8",
                {"\xed\xa0\x80", {1}, 0, "xxxx", {}, {}});
  expect_tensor("name twice", "\"output_norm.weight\" twice",
                {"output_norm.weight", {1}, 0, "xxxx", {}, {}});
  expect_tensor("rank 0", "1 to 4 dimensions", {"x", {}, 0, "xxxx", {}, {}});
  expect_tensor("rank 5", "1 to 4 dimensions", {"x", {1, 1, 1, 1, 1}, 0, "xxxx", {}, {}});
  expect_tensor("rank 2^32 - 1", "1 to 4 dimensions", {"x", {1}, 0, "xxxx", {}, 0xFFFFFFFF});
  expect_tensor("rank more than sizes", "", {"x", {1}, 0, "xxxx", {}, 4});
  expect_tensor("size 0", "sizes from 1", {"x", {4, 0}, 0, "", {}, {}});
  expect_tensor("size 2^63", "sizes from 1", {"x", {k63}, 0, "xxxx", {}, {}});
  expect_tensor("size 2^64 - 1", "sizes from 1", {"x", {kMax}, 0, "xxxx", {}, {}});
  expect_tensor("bytes wrap to 4", "below 2^64",
                {"x", {(std::uint64_t{1} << 62) + 1}, 0, "xxxx", {}, {}});
  expect_tensor("product wraps to 0", "below 2^64",
                {"x", {std::uint64_t{1} << 32, std::uint64_t{1} << 32}, 0, "xxxx", {}, {}});
  expect_tensor("blocks wrap", "below 2^64",
                {"x", {32, std::uint64_t{1} << 62, 2}, 8, "xxxx", {}, {}});
  expect_tensor("too large for the file", "bytes of data",
                {"x", {std::uint64_t{1} << 40}, 0, "xxxx", {}, {}});
  const struct {
    std::uint32_t type;
    const char* name;
  } kUnread[] = {{4, "type 4"},  {9, "Q8_1"},     {10, "Q2_K"},
                 {11, "Q3_K"},   {15, "Q8_K"},    {16, "IQ2_XXS"},
                 {20, "IQ4_NL"}, {23, "IQ4_XS"},  {24, "I8"},
                 {26, "I32"},    {28, "F64"},     {34, "TQ1_0"},
                 {39, "MXFP4"},  {99, "type 99"}, {0xFFFFFFFF, "type 4294967295"}};
  for (const auto& unread : kUnread) {
    expect_tensor(unread.name, std::string("got ") + unread.name,
                  {"x", {256}, unread.type, std::string(1024, 'x'), {}, {}});
  }
  expect_tensor("rows of half blocks", "whole blocks of 32",
                {"x", {48, 2}, 3, std::string(60, 'x'), {}, {}});
  expect_tensor("rows of small super-blocks", "whole blocks of 256",
                {"x", {128, 2}, 12, std::string(144, 'x'), {}, {}});

  // Offsets.
  for (const std::uint64_t offset :
       {std::uint64_t{1}, std::uint64_t{4}, std::uint64_t{1} << 20, k63, kMax, kMax - 31}) {
    expect("offset " + std::to_string(offset), "the offset 0",
           [&](GgufBytes& f) { f.tensors[0].offset = offset; });
  }
  expect("on the one before", "the offset", [](GgufBytes& f) { f.tensors[2].offset = 0; });
  expect("a gap", "the offset", [](GgufBytes& f) { f.tensors[2].offset = 1 << 12; });
  expect("out of order", "the offset 0", [](GgufBytes& f) {
    const std::uint64_t second = (f.tensors[0].data.size() + 31) / 32 * 32;
    f.tensors[0].offset = second;
    f.tensors[1].offset = 0;
  });

  // Data.
  const GgufBytes tiny = tiny_gguf();
  const std::string whole = tiny.bytes();
  expect_bytes("no data", "bytes of data", tiny.header());
  expect_bytes("half the data", "bytes of data",
               whole.substr(0, (tiny.header().size() + whole.size()) / 2));
  expect_bytes("the last byte missing", "bytes of data", whole.substr(0, whole.size() - 1));
}

TEST(GgufFile, EveryTruncationOfTheHeaderIsRefused) {
  const TempFolder folder;
  testing::HostileSuite suite("gguf truncated");
  GgufBytes bytes;
  bytes.text("general.architecture", "llama");
  bytes.texts("tokenizer.ggml.tokens", {"a", "bc"});
  bytes.i32s("tokenizer.ggml.token_type", {1, 1});
  bytes.set("nested", GgufType::kArray,
            array_of(GgufType::kArray, 1, array_of(GgufType::kBool, 2, std::string("\0\1", 2))));
  bytes.f32("f", 1.0f);
  bytes.tensor("a", {4, 2});
  bytes.tensor("b", {32}, GgmlType::kQ8_0);
  const std::string whole = bytes.bytes();
  ASSERT_NO_THROW(GgufFile(folder.write("a", whole)));
  // The last tensor's padding is all that may be missing.
  const std::size_t needed = whole.size() - 64 + 34;
  ASSERT_NO_THROW(GgufFile(folder.write("a", whole.substr(0, needed))));
  for (std::size_t size = 0; size < needed; ++size) {
    const fs::path path = folder.write("a", whole.substr(0, size));
    suite.expect_bad_input(std::to_string(size), path.string(), [&] { GgufFile file(path); });
  }
}

// A key's array of empty strings over a sparse file: the header has a limit.
TEST(GgufFile, HeaderHasALimit) {
  const TempFolder folder;
  testing::HostileSuite suite("gguf long header");
  const fs::path path =
      folder.write("a", "GGUF" + raw<std::uint32_t>(3) + raw<std::uint64_t>(0) +
                            raw<std::uint64_t>(1) + raw_string("x") + raw<std::uint32_t>(9) +
                            array_of(GgufType::kString, std::uint64_t{1} << 30, ""));
  fs::resize_file(path, std::uint64_t{1} << 40);
  suite.expect_bad_input("a terabyte of empty strings", "the number of items",
                         [&] { GgufFile file(path); });
}

}  // namespace
}  // namespace loza
