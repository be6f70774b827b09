#include "loza/base/file.h"

#include <gtest/gtest.h>
#include <sys/stat.h>

#include <cstring>
#include <functional>
#include <iterator>
#include <string>
#include <utility>

#include "loza/base/error.h"
#include "tests/support/temp_folder.h"

namespace loza {
namespace {
namespace fs = std::filesystem;
using testing::bytes_of;
using testing::TempFolder;

ExitCode code_of(const std::function<void()>& body) {
  try {
    body();
  } catch (const Error& e) {
    EXPECT_FALSE(e.text().place.empty());
    return e.code();
  }
  return ExitCode::kOk;
}

std::size_t num_entries(const fs::path& folder) {
  return static_cast<std::size_t>(std::distance(fs::directory_iterator(folder), {}));
}

TEST(MappedFile, HoldsTheBytes) {
  const TempFolder folder;
  const MappedFile file(folder.write("a", "hello"));
  ASSERT_EQ(file.size(), 5u);
  EXPECT_EQ(std::memcmp(file.bytes().data(), "hello", 5), 0);
  EXPECT_EQ(MappedFile(folder.write("empty", "")).size(), 0u);
}

TEST(MappedFile, MovesAndStaysValid) {
  const TempFolder folder;
  MappedFile a(folder.write("a", "one")), b(folder.write("b", "three"));
  MappedFile c(std::move(a));
  EXPECT_EQ(c.size(), 3u);
  EXPECT_EQ(a.size(), 0u);
  c = std::move(b);
  EXPECT_EQ(c.size(), 5u);
  EXPECT_EQ(std::memcmp(c.bytes().data(), "three", 5), 0);
}

TEST(MappedFile, RefusesWhatIsNoFile) {
  const TempFolder folder;
  EXPECT_EQ(code_of([&] { MappedFile file(folder / "missing"); }), ExitCode::kBadInput);
  EXPECT_EQ(code_of([&] { MappedFile file(folder.path()); }), ExitCode::kBadInput);
  ASSERT_EQ(::mkfifo((folder / "pipe").c_str(), 0600), 0);
  EXPECT_EQ(code_of([&] { MappedFile file(folder / "pipe"); }), ExitCode::kBadInput);
}

TEST(ReadFile, HoldsToItsLimit) {
  const TempFolder folder;
  const fs::path file = folder.write("a", std::string("a\0b\n", 4));
  EXPECT_EQ(read_file(file), std::string("a\0b\n", 4));
  EXPECT_EQ(read_file(file, 4), std::string("a\0b\n", 4));
  EXPECT_EQ(code_of([&] { read_file(file, 3); }), ExitCode::kBadInput);
}

TEST(WriteFileAtomic, ReplacesWholeFilesAndLeavesNothingElse) {
  const TempFolder folder;
  write_file_atomic(folder / "a", "first, longer");
  write_file_atomic(folder / "a", "second");
  EXPECT_EQ(bytes_of(folder / "a"), "second");
  write_file_atomic(folder / "a", "");
  EXPECT_EQ(bytes_of(folder / "a"), "");
  EXPECT_EQ(num_entries(folder.path()), 1u);
}

TEST(WriteFileAtomic, OldReadersKeepTheOldFile) {
  const TempFolder folder;
  write_file_atomic(folder / "a", "old");
  const MappedFile old(folder / "a");
  write_file_atomic(folder / "a", "new");
  EXPECT_EQ(std::memcmp(old.bytes().data(), "old", 3), 0);
}

TEST(WriteFileAtomic, FailsWithWhatTheSystemSays) {
  const TempFolder folder;
  EXPECT_EQ(code_of([&] { write_file_atomic(folder / "no/such/a", "x"); }), ExitCode::kFailed);
  fs::create_directories(folder / "taken/inside");
  EXPECT_EQ(code_of([&] { write_file_atomic(folder / "taken", "x"); }), ExitCode::kFailed);
  EXPECT_EQ(num_entries(folder.path()), 1u) << "the temporary file stayed";
}

TEST(StagedFolder, AppearsWhole) {
  const TempFolder folder;
  const fs::path target = folder / "out";
  {
    StagedFolder staged(target);
    write_file_atomic(staged.path() / "a", "1");
    fs::create_directories(staged.path() / "sub");
    write_file_atomic(staged.path() / "sub/b", "2");
    EXPECT_FALSE(fs::exists(target));
    staged.commit();
  }
  EXPECT_EQ(bytes_of(target / "a"), "1");
  EXPECT_EQ(bytes_of(target / "sub/b"), "2");
  EXPECT_EQ(num_entries(folder.path()), 1u);
}

TEST(StagedFolder, IsGoneWithoutCommit) {
  const TempFolder folder;
  {
    StagedFolder staged(folder / "out");
    write_file_atomic(staged.path() / "a", "1");
  }
  EXPECT_EQ(num_entries(folder.path()), 0u);
}

TEST(StagedFolder, TakesAnEmptyFolderAndATrailingSlash) {
  const TempFolder folder;
  fs::create_directory(folder / "out");
  StagedFolder staged((folder / "out").string() + "/");
  write_file_atomic(staged.path() / "a", "1");
  staged.commit();
  EXPECT_EQ(bytes_of(folder / "out/a"), "1");
}

TEST(StagedFolder, RefusesAFolderWithFilesAndAFile) {
  const TempFolder folder;
  folder.write("out/precious", "x");
  folder.write("file", "x");
  EXPECT_EQ(code_of([&] { StagedFolder staged(folder / "out"); }), ExitCode::kUsage);
  EXPECT_EQ(code_of([&] { StagedFolder staged(folder / "file"); }), ExitCode::kUsage);
  EXPECT_EQ(bytes_of(folder / "out/precious"), "x");
}

// What arrives at the target between the constructor and commit() is kept.
TEST(StagedFolder, DoesNotOverwriteALateComer) {
  const TempFolder folder;
  StagedFolder staged(folder / "out");
  write_file_atomic(staged.path() / "a", "1");
  folder.write("out/precious", "x");
  EXPECT_EQ(code_of([&] { staged.commit(); }), ExitCode::kFailed);
  EXPECT_EQ(bytes_of(folder / "out/precious"), "x");
}

TEST(Error, IsOneLine) {
  try {
    throw_bad_input("a\nb", "c\rd", "e", "f");
  } catch (const Error& e) {
    EXPECT_STREQ(e.what(), "a b: expected c d, got e; f");
    EXPECT_EQ(e.code(), ExitCode::kBadInput);
    EXPECT_EQ(e.text().place, "a\nb");
  }
  try {
    throw_usage("a", "b", "c");
  } catch (const Error& e) {
    EXPECT_STREQ(e.what(), "a: expected b, got c");
    EXPECT_EQ(e.code(), ExitCode::kUsage);
  }
}

}  // namespace
}  // namespace loza
