#include "loza/checkpoint/safetensors_writer.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstring>
#include <numeric>
#include <unordered_map>
#include <unordered_set>

#include "loza/base/check.h"
#include "loza/base/error.h"
#include "loza/base/file.h"
#include "loza/checkpoint/checkpoint.h"

namespace loza {
namespace fs = std::filesystem;
namespace {

void write_at(int fd, const fs::path& path, std::uint64_t offset,
              std::span<const std::byte> bytes) {
  for (std::size_t done = 0; done < bytes.size();) {
    const ssize_t n =
        ::pwrite(fd, bytes.data() + done, bytes.size() - done, static_cast<off_t>(offset + done));
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) throw_system_error(path, fmt::format("{} bytes to be written", bytes.size()));
    done += static_cast<std::size_t>(n);
  }
}

}  // namespace

std::uint64_t safetensors_element_bytes(const std::string& dtype) {
  static const std::unordered_map<std::string, std::uint64_t> kBytes = {
      {"BOOL", 1}, {"U8", 1},  {"I8", 1},  {"F8_E4M3", 1}, {"F8_E5M2", 1}, {"F8_E8M0", 1},
      {"U16", 2},  {"I16", 2}, {"F16", 2}, {"BF16", 2},    {"U32", 4},     {"I32", 4},
      {"F32", 4},  {"U64", 8}, {"I64", 8}, {"F64", 8},     {"C64", 8},
  };
  const auto found = kBytes.find(dtype);
  return found == kBytes.end() ? 0 : found->second;
}

std::uint64_t TensorSlot::num_bytes() const {
  return std::accumulate(shape.begin(), shape.end(), safetensors_element_bytes(dtype),
                         [](std::uint64_t bytes, std::int64_t size) {
                           return bytes * static_cast<std::uint64_t>(size);
                         });
}

struct SafetensorsWriter::State {
  fs::path path, temporary;
  int fd = -1;
  std::vector<TensorSlot> slots;
  std::vector<std::uint64_t> begins;  // of each slot's data, from the start of the file
  std::uint64_t num_data_bytes = 0;
  std::atomic<std::uint64_t> written = 0;
};

SafetensorsWriter::SafetensorsWriter(const fs::path& path, std::vector<TensorSlot> slots,
                                     const std::map<std::string, std::string>& metadata)
    : state_(std::make_unique<State>()) {
  State& s = *state_;
  s.path = path;
  s.temporary = path.string() + fmt::format(".part{}", ::getpid());
  s.slots = std::move(slots);

  std::vector<std::size_t> order(s.slots.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::stable_sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) {
    return safetensors_element_bytes(s.slots[a].dtype) >
           safetensors_element_bytes(s.slots[b].dtype);
  });

  Json members = Json::object();
  if (!metadata.empty()) append_member(members, "__metadata__", metadata);
  std::unordered_set<std::string> names;
  s.begins.resize(s.slots.size());
  for (const std::size_t i : order) {
    const TensorSlot& slot = s.slots[i];
    LOZA_CHECK(safetensors_element_bytes(slot.dtype) != 0, slot.name, slot.dtype);
    LOZA_CHECK(names.insert(slot.name).second, slot.name);
    s.begins[i] = s.num_data_bytes;
    s.num_data_bytes += slot.num_bytes();
    append_member(members, slot.name,
                  {{"dtype", slot.dtype},
                   {"shape", slot.shape},
                   {"data_offsets", {s.begins[i], s.num_data_bytes}}});
  }
  std::string header = members.dump();
  header.resize((header.size() + 7) / 8 * 8, ' ');
  const std::uint64_t num_header_bytes = header.size();
  for (std::uint64_t& begin : s.begins) begin += sizeof num_header_bytes + num_header_bytes;

  s.fd = ::open(s.temporary.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
  if (s.fd < 0) throw_system_error(s.temporary, "to be created");
  write_at(s.fd, s.temporary, 0, std::as_bytes(std::span(&num_header_bytes, 1)));
  write_at(s.fd, s.temporary, sizeof num_header_bytes,
           std::as_bytes(std::span(header.data(), header.size())));
}

SafetensorsWriter::~SafetensorsWriter() {
  if (state_->fd < 0) return;
  ::close(state_->fd);
  std::error_code ignored;
  fs::remove(state_->temporary, ignored);
}

void SafetensorsWriter::write(std::size_t slot_idx, std::uint64_t offset,
                              std::span<const std::byte> bytes) {
  State& s = *state_;
  LOZA_CHECK(slot_idx < s.slots.size(), slot_idx, s.slots.size());
  LOZA_CHECK(offset + bytes.size() <= s.slots[slot_idx].num_bytes(), offset, bytes.size());
  write_at(s.fd, s.temporary, s.begins[slot_idx] + offset, bytes);
  s.written += bytes.size();
}

void SafetensorsWriter::commit() {
  State& s = *state_;
  LOZA_CHECK(s.written == s.num_data_bytes, s.written.load(), s.num_data_bytes);
  if (::fsync(s.fd) != 0) throw_system_error(s.temporary, "to be synced to disk");
  if (::rename(s.temporary.c_str(), s.path.c_str()) != 0)
    throw_system_error(s.path, "to be replaced");
  ::close(s.fd);
  s.fd = -1;
  const fs::path parent = s.path.has_parent_path() ? s.path.parent_path() : fs::path(".");
  const int folder = ::open(parent.c_str(), O_RDONLY | O_CLOEXEC);
  const bool synced = folder >= 0 && ::fsync(folder) == 0;
  if (folder >= 0) ::close(folder);
  if (!synced) throw_system_error(parent, "to be synced to disk");
}

void write_safetensors(const fs::path& path, const std::vector<TensorEntry>& entries,
                       const std::map<std::string, std::string>& metadata) {
  std::vector<TensorSlot> slots;
  for (const TensorEntry& entry : entries) {
    slots.push_back({entry.name, entry.dtype, entry.shape});
    LOZA_CHECK(slots.back().num_bytes() == entry.bytes.size(), entry.name, entry.bytes.size());
  }
  SafetensorsWriter writer(path, std::move(slots), metadata);
  for (std::size_t i = 0; i < entries.size(); ++i) writer.write(i, 0, entries[i].bytes);
  writer.commit();
}

void write_weights(const fs::path& folder, const std::vector<TensorEntry>& entries,
                   std::uint64_t max_shard_bytes) {
  const std::map<std::string, std::string> kMetadata = {{"format", "pt"}};
  std::vector<std::vector<TensorEntry>> shards(1);
  std::uint64_t shard_bytes = 0, total_bytes = 0;
  for (const TensorEntry& entry : entries) {
    if (shard_bytes + entry.bytes.size() > max_shard_bytes && !shards.back().empty()) {
      shards.emplace_back();
      shard_bytes = 0;
    }
    shards.back().push_back(entry);
    shard_bytes += entry.bytes.size();
    total_bytes += entry.bytes.size();
  }
  if (shards.size() == 1) {
    write_safetensors(folder / "model.safetensors", shards[0], kMetadata);
    return;
  }
  std::map<std::string, std::string> shard_of;
  for (std::size_t i = 0; i < shards.size(); ++i) {
    const std::string name = fmt::format("model-{:05}-of-{:05}.safetensors", i + 1, shards.size());
    write_safetensors(folder / name, shards[i], kMetadata);
    for (const TensorEntry& entry : shards[i]) shard_of[entry.name] = name;
  }
  const nlohmann::json index = {{"metadata", {{"total_size", total_bytes}}},
                                {"weight_map", shard_of}};
  write_file_atomic(folder / "model.safetensors.index.json", index.dump(2) + "\n");
}

}  // namespace loza
