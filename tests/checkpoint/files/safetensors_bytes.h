#pragma once

#include <cstdint>
#include <cstring>
#include <string>

namespace loza::testing {

// A safetensors file of this header and so many bytes of data; num_header_bytes other than
// the header's own makes it a liar.
inline std::string safetensors_bytes(const std::string& header, std::size_t num_data_bytes = 0) {
  const std::uint64_t num_header_bytes = header.size();
  std::string bytes(sizeof num_header_bytes, '\0');
  std::memcpy(bytes.data(), &num_header_bytes, sizeof num_header_bytes);
  return bytes + header + std::string(num_data_bytes, 'x');
}

inline std::string with_header_length(std::uint64_t length, const std::string& rest) {
  std::string bytes(sizeof length, '\0');
  std::memcpy(bytes.data(), &length, sizeof length);
  return bytes + rest;
}

}  // namespace loza::testing
