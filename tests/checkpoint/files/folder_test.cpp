#include <fmt/format.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <functional>
#include <string>
#include <vector>

#include "loza/base/hash.h"
#include "loza/checkpoint/checkpoint.h"
#include "tests/checkpoint/files/safetensors_bytes.h"
#include "tests/support/hostile.h"
#include "tests/support/temp_folder.h"

namespace loza {
namespace {
namespace fs = std::filesystem;
using testing::bytes_of;
using testing::safetensors_bytes;
using testing::TempFolder;

constexpr const char* kIndex = "model.safetensors.index.json";

// A file with one F32 tensor of one element for each name.
std::string shard_of(const std::vector<std::string>& names) {
  std::string header = "{";
  for (std::size_t i = 0; i < names.size(); ++i) {
    header += fmt::format(R"({}"{}":{{"dtype":"F32","shape":[1],"data_offsets":[{},{}]}})",
                          i == 0 ? "" : ",", names[i], 4 * i, 4 * i + 4);
  }
  return safetensors_bytes(header + "}", 4 * names.size());
}

// A folder of two shards, [a, b] and [c].
void write_good(const TempFolder& folder) {
  folder.write("config.json", R"({"model_type": "llama", "x": 1})");
  folder.write("model-1.safetensors", shard_of({"a", "b"}));
  folder.write("model-2.safetensors", shard_of({"c"}));
  folder.write(kIndex, R"({"metadata": {"total_size": 12}, "weight_map":
    {"a": "model-1.safetensors", "b": "model-1.safetensors", "c": "model-2.safetensors"}})");
}

TEST(Checkpoint, OpensOneFile) {
  const TempFolder folder;
  folder.write("config.json", R"({"z": 1, "a": {"b": [1.5]}})");
  folder.write("model.safetensors", shard_of({"a", "b"}));
  const Checkpoint checkpoint(folder.path());
  EXPECT_EQ(checkpoint.config().dump(), R"({"z":1,"a":{"b":[1.5]}})");
  EXPECT_TRUE(checkpoint.generation_config().is_null());
  EXPECT_EQ(checkpoint.folder(), folder.path());
  EXPECT_TRUE(checkpoint.has("a"));
  EXPECT_FALSE(checkpoint.has("c"));
  EXPECT_EQ(checkpoint.tensors().size(), 2u);
  EXPECT_EQ(checkpoint.tensor_bytes(), 8u);
  EXPECT_EQ(checkpoint.tensor("b").bytes.size(), 4u);
  EXPECT_THROW(checkpoint.tensor("c"), Error);
}

TEST(Checkpoint, OpensShards) {
  const TempFolder folder;
  write_good(folder);
  folder.write("generation_config.json", R"({"eos_token_id": [1, 2]})");
  folder.write("unused.safetensors", "not read");
  const Checkpoint checkpoint(folder.path());
  EXPECT_EQ(checkpoint.generation_config()["eos_token_id"][1], 2);
  EXPECT_EQ(checkpoint.tensors().size(), 3u);
  EXPECT_EQ(checkpoint.tensor("c").name, "c");
  EXPECT_EQ(checkpoint.tensor_bytes(), 12u);
}

TEST(Checkpoint, FollowsLinksInsideTheFolder) {
  const TempFolder folder;
  write_good(folder);
  fs::create_directory(folder / "blobs");
  fs::rename(folder / "model-1.safetensors", folder / "blobs/0123");
  fs::create_symlink("blobs/0123", folder / "model-1.safetensors");
  EXPECT_EQ(Checkpoint(folder.path()).tensors().size(), 3u);
  const TempFolder elsewhere;
  fs::create_directory_symlink(folder.path(), elsewhere / "model");
  EXPECT_EQ(Checkpoint(elsewhere / "model").tensors().size(), 3u);
}

TEST(Checkpoint, TakesWhatTheIndexMaySayBesides) {
  const TempFolder folder;
  write_good(folder);
  folder.write(kIndex, R"({"version": [1, {"x": null}], "metadata": {"a": [true, -1, 2.5]},
    "weight_map": {"a": "model-1.safetensors", "b": "model-1.safetensors",
    "c": "model-2.safetensors"}, "note": "x"})");
  EXPECT_EQ(Checkpoint(folder.path()).tensors().size(), 3u);
}

TEST(Checkpoint, HostileFolders) {
  testing::HostileSuite suite("folders and indexes");
  const auto expect = [&](const std::string& name, const std::string& fragment,
                          const std::function<void(const TempFolder&)>& spoil) {
    const TempFolder folder;
    write_good(folder);
    spoil(folder);
    suite.expect_bad_input(name, fragment, [&] { Checkpoint checkpoint(folder.path()); });
  };
  const auto expect_index = [&](const std::string& name, const std::string& fragment,
                                const std::string& index) {
    expect(name, fragment, [&](const TempFolder& folder) { folder.write(kIndex, index); });
  };
  const auto expect_shard = [&](const std::string& name, const std::string& fragment,
                                const std::string& shard) {
    expect_index(name, fragment,
                 fmt::format(R"({{"weight_map":{{"a":"{}","b":"model-1.safetensors",
                             "c":"model-2.safetensors"}}}})",
                             shard));
  };

  // The folder.
  suite.expect_bad_input("nothing", "nothing there", [] { Checkpoint c("/nowhere/at/all"); });
  suite.expect_bad_input("empty path", "a model folder", [] { Checkpoint c(""); });
  suite.expect_bad_input("a file", "a model folder", [] { Checkpoint c("/etc/passwd"); });
  expect("no config", "a config.json", [](const TempFolder& f) { fs::remove(f / "config.json"); });
  expect("no weights", "model.safetensors or", [](const TempFolder& f) { fs::remove(f / kIndex); });
  expect("pickled weights alone", "pytorch_model.bin", [](const TempFolder& f) {
    fs::remove(f / kIndex);
    f.write("pytorch_model.bin", "x");
  });
  expect("broken file beside the index", "model.safetensors",
         [](const TempFolder& f) { f.write("model.safetensors", ""); });
  expect("weights a folder", "regular file",
         [](const TempFolder& f) { fs::create_directory(f / "model.safetensors"); });
  expect("index a folder", "regular file", [](const TempFolder& f) {
    fs::remove(f / kIndex);
    fs::create_directory(f / kIndex);
  });

  // config.json, generation_config.json.
  for (const char* file : {"config.json", "generation_config.json"}) {
    const auto expect_config = [&](const std::string& name, const std::string& fragment,
                                   const std::string& bytes) {
      expect(fmt::format("{} {}", file, name), fragment,
             [&](const TempFolder& folder) { folder.write(file, bytes); });
    };
    expect_config("empty", "valid JSON", "");
    expect_config("an array", "a JSON object", "[1]");
    expect_config("a string", "a JSON object", "\"x\"");
    expect_config("null", "a JSON object", "null");
    expect_config("cut short", "valid JSON", "{\"a\": 1");
    expect_config("name twice", "\"a\" twice", R"({"a": 1, "a": 2})");
    expect_config("invalid UTF-8", "valid JSON", "{\"a\": \"\xff\"}");
    expect_config("deep", "at most 64 deep", "{\"a\":" + std::string(100000, '['));
    expect_config("3 MiB", "at most 2097152 bytes", "{}" + std::string(3 << 20, ' '));
    expect(fmt::format("{} a folder", file), "regular file", [&](const TempFolder& folder) {
      fs::remove(folder / file);
      fs::create_directory(folder / file);
    });
    expect(fmt::format("{} a link out", file), "leads out", [&](const TempFolder& folder) {
      fs::remove(folder / file);
      fs::create_symlink("/etc/passwd", folder / file);
    });
    expect(fmt::format("{} a link to nothing", file), "readable file",
           [&](const TempFolder& folder) {
             fs::remove(folder / file);
             fs::create_symlink("gone", folder / file);
           });
    expect(fmt::format("{} a link to itself", file), "readable file",
           [&](const TempFolder& folder) {
             fs::remove(folder / file);
             fs::create_symlink(file, folder / file);
           });
  }

  // Names of shards.
  expect_shard("no such shard", "not there", "model-3.safetensors");
  expect_shard("empty name", "plain name", "");
  expect_shard("dot", "plain name", ".");
  expect_shard("dot dot", "plain name", "..");
  expect_shard("absolute", "plain name", "/etc/passwd");
  expect_shard("up", "plain name", "../model-1.safetensors");
  expect_shard("in a sub-folder", "plain name", "sub/model-1.safetensors");
  expect_shard("dot slash", "plain name", "./model-1.safetensors");
  expect_shard("backslash", "plain name", "..\\\\model-1.safetensors");
  expect_shard("NUL", "plain name", "model-1.safetensors\\u0000x");
  expect_shard("300 bytes", "plain name", std::string(300, 'a'));
  expect_shard("another kind of file", "header", "config.json");
  expect("shard a link out", "leads out", [](const TempFolder& f) {
    fs::remove(f / "model-1.safetensors");
    fs::create_symlink("/etc/passwd", f / "model-1.safetensors");
  });
  const TempFolder other;
  other.write("s", shard_of({"a", "b"}));
  expect("shard a link to a good one elsewhere", "leads out", [&](const TempFolder& f) {
    fs::remove(f / "model-1.safetensors");
    fs::create_symlink(other / "s", f / "model-1.safetensors");
  });
  expect("shard a folder", "regular file", [](const TempFolder& f) {
    fs::remove(f / "model-1.safetensors");
    fs::create_directory(f / "model-1.safetensors");
  });
  expect("shard a pipe", "regular file", [](const TempFolder& f) {
    fs::remove(f / "model-1.safetensors");
    ASSERT_EQ(::mkfifo((f / "model-1.safetensors").c_str(), 0600), 0);
  });
  expect("shard cut short", "model-1.safetensors", [](const TempFolder& f) {
    f.write("model-1.safetensors", shard_of({"a", "b"}).substr(0, 90));
  });
  expect("index a link out", "leads out", [](const TempFolder& f) {
    fs::remove(f / kIndex);
    fs::create_symlink("/etc/passwd", f / kIndex);
  });

  // The index and the shards must agree.
  expect_index("a tensor in the wrong shard", "\"c\" in \"model-1.safetensors\"",
               R"({"weight_map":{"a":"model-1.safetensors","b":"model-1.safetensors",
               "c":"model-1.safetensors"}})");
  expect_index("a tensor that is nowhere", "no such tensor",
               R"({"weight_map":{"a":"model-1.safetensors","d":"model-1.safetensors"}})");
  expect_index("a tensor that the index forgets", "\"b\" beside them",
               R"({"weight_map":{"a":"model-1.safetensors","c":"model-2.safetensors"}})");
  expect("a tensor in two shards", "\"a\" beside them", [](const TempFolder& f) {
    f.write("model-2.safetensors", shard_of({"a", "c"}));
  });
  expect_index("a tensor named twice", "\"a\" twice",
               R"({"weight_map":{"a":"model-1.safetensors","a":"model-1.safetensors"}})");

  // What the index is.
  expect_index("empty", "valid JSON", "");
  expect_index("an array", "a JSON object", "[]");
  expect_index("a number", "a JSON object", "4");
  expect_index("a string", "a JSON object", "\"x\"");
  expect_index("no weight_map", "a weight_map", R"({"metadata": {}})");
  expect_index("weight_map twice", "\"weight_map\" twice", R"({"weight_map":{},"weight_map":{}})");
  expect_index("weight_map null", "an object of file names", R"({"weight_map":null})");
  expect_index("weight_map an array", "an object of file names", R"({"weight_map":["a"]})");
  expect_index("weight_map a string", "an object of file names", R"({"weight_map":"a"})");
  expect_index("number for a shard", "the name of a file", R"({"weight_map":{"a":1}})");
  expect_index("null for a shard", "the name of a file", R"({"weight_map":{"a":null}})");
  expect_index("array for a shard", "the name of a file", R"({"weight_map":{"a":["x"]}})");
  expect_index("object for a shard", "the name of a file", R"({"weight_map":{"a":{"x":"y"}}})");
  expect_index("cut short", "valid JSON", R"({"weight_map":{"a":"model-1.safetensors")");
  expect_index("NUL at the end", "a NUL",
               std::string(R"({"weight_map":{}})") + std::string(1, '\0'));
  expect_index("invalid UTF-8", "valid JSON", "{\"weight_map\":{\"\xff\":\"x\"}}");
  expect_index("metadata deep", "at most 64 deep", "{\"metadata\":" + std::string(100000, '['));
  expect_index("metadata deep objects", "at most 64 deep", [] {
    std::string text = "{\"metadata\":";
    for (int i = 0; i < 100; ++i) text += "{\"a\":";
    return text;
  }());
  expect("65 MiB", "at most 67108864 bytes",
         [](const TempFolder& f) { fs::resize_file(f / kIndex, std::uint64_t{65} << 20); });
}

TEST(WriteWeights, OneFileOrShardsThatOpenAgain) {
  const std::string data(400, 'd');
  const auto bytes = std::as_bytes(std::span(data.data(), data.size()));
  std::vector<TensorEntry> entries;
  for (int i = 0; i < 10; ++i) {
    entries.push_back({fmt::format("t{}", i), "F32", {10}, bytes.subspan(i, 40)});
  }
  for (const std::uint64_t limit : {1, 40, 79, 80, 120, 400, 1000}) {
    const TempFolder folder;
    folder.write("config.json", "{}");
    write_weights(folder.path(), entries, limit);
    const Checkpoint checkpoint(folder.path());
    ASSERT_EQ(checkpoint.tensors().size(), entries.size());
    for (const TensorEntry& entry : entries) {
      const TensorEntry& read = checkpoint.tensor(entry.name);
      EXPECT_TRUE(
          std::equal(read.bytes.begin(), read.bytes.end(), entry.bytes.begin(), entry.bytes.end()));
    }
    std::size_t num_shards = 0;
    for (const auto& file : fs::directory_iterator(folder.path())) {
      num_shards += file.path().extension() == ".safetensors" ? 1 : 0;
    }
    const std::size_t in_shard = std::max<std::size_t>(1, limit / 40);
    EXPECT_EQ(num_shards, (10 + in_shard - 1) / in_shard) << limit;
    EXPECT_EQ(fs::exists(folder / kIndex), num_shards > 1);
    if (num_shards > 1) {
      EXPECT_TRUE(fs::exists(folder / fmt::format("model-00001-of-{:05}.safetensors", num_shards)));
      const Json index = parse_json(bytes_of(folder / kIndex), kIndex);
      EXPECT_EQ(index["metadata"]["total_size"], 400);
    }
  }
}

TEST(CopyWithConfig, KeepsEveryOtherByte) {
  const TempFolder folder, target;
  write_good(folder);
  std::string noise(5000, '\0');
  for (std::size_t i = 0; i < noise.size(); ++i) noise[i] = static_cast<char>(i * 7919 >> 3);
  const std::vector<std::string> others = {"tokenizer.json",
                                           "tokenizer_config.json",
                                           "chat_template.jinja",
                                           "special_tokens_map.json",
                                           "README.md",
                                           "deep/er/unknown.bin",
                                           ".hidden",
                                           "empty"};
  for (const std::string& name : others) folder.write(name, name == "empty" ? "" : name + noise);
  const Json config = parse_json(R"({"z": 1, "model_type": "llama", "new": {"k": [1, 2]}})", "x");
  copy_with_config(folder.path(), target / "out", config);

  EXPECT_EQ(parse_json(bytes_of(target / "out/config.json"), "x").dump(), config.dump());
  std::size_t num_files = 0;
  for (const auto& entry : fs::recursive_directory_iterator(folder.path())) {
    if (!entry.is_regular_file()) continue;
    ++num_files;
    const fs::path relative = fs::relative(entry.path(), folder.path());
    if (relative == "config.json") continue;
    EXPECT_EQ(bytes_of(entry.path()), bytes_of(target / "out" / relative)) << relative;
  }
  EXPECT_EQ(num_files, others.size() + 4);
  EXPECT_EQ(Checkpoint(target / "out").config()["new"]["k"][1], 2);
  EXPECT_EQ(bytes_of(folder / "config.json"), R"({"model_type": "llama", "x": 1})");
  EXPECT_EQ(std::distance(fs::directory_iterator(target.path()), {}), 1) << "staging stayed";
  // Weights are shared; what people edit is not.
  EXPECT_EQ(fs::hard_link_count(target / "out/model-1.safetensors"), 2u);
  EXPECT_EQ(fs::hard_link_count(target / "out/tokenizer.json"), 1u);
}

TEST(CopyWithConfig, ResolvesLinksInside) {
  const TempFolder folder, target;
  write_good(folder);
  folder.write("blobs/1", "text");
  fs::create_symlink("blobs/1", folder / "tokenizer.json");
  copy_with_config(folder.path(), target / "out", Json::object());
  EXPECT_FALSE(fs::is_symlink(target / "out/tokenizer.json"));
  EXPECT_EQ(bytes_of(target / "out/tokenizer.json"), "text");
}

TEST(CopyWithConfig, RefusesAndLeavesNothing) {
  const auto code_of = [](const fs::path& source, const fs::path& target) {
    try {
      copy_with_config(source, target, Json::object());
    } catch (const Error& e) {
      return e.code();
    }
    return ExitCode::kOk;
  };
  const TempFolder folder, target;
  write_good(folder);
  target.write("full/precious", "x");
  EXPECT_EQ(code_of(folder.path(), target / "full"), ExitCode::kUsage);
  EXPECT_EQ(bytes_of(target / "full/precious"), "x");
  EXPECT_EQ(code_of(folder.path(), folder / "inside"), ExitCode::kUsage);
  EXPECT_EQ(code_of(folder.path(), folder.path()), ExitCode::kUsage);
  EXPECT_EQ(code_of(folder / "missing", target / "out"), ExitCode::kFailed);
  fs::create_symlink("/etc/passwd", folder / "README.md");
  EXPECT_EQ(code_of(folder.path(), target / "out"), ExitCode::kBadInput);
  fs::remove(folder / "README.md");
  fs::create_directory_symlink("/etc", folder / "sub");
  EXPECT_EQ(code_of(folder.path(), target / "out"), ExitCode::kBadInput);
  fs::remove(folder / "sub");
  ASSERT_EQ(::mkfifo((folder / "pipe").c_str(), 0600), 0);
  EXPECT_EQ(code_of(folder.path(), target / "out"), ExitCode::kBadInput);
  EXPECT_EQ(std::distance(fs::directory_iterator(target.path()), {}), 1) << "staging stayed";
}

}  // namespace
}  // namespace loza
