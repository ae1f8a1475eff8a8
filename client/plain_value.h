// client/plain_value.h
//
// Numbers and plain structs as the files of the state directory have them: their bytes in memory, on a little-endian machine.
#ifndef UNDERSTUDY_CLIENT_PLAIN_VALUE_H_
#define UNDERSTUDY_CLIENT_PLAIN_VALUE_H_

#include <bit>
#include <cstring>
#include <string>

#include "absl/strings/string_view.h"

namespace understudy::client {

static_assert(std::endian::native == std::endian::little, "the encoding is little-endian");

template <typename T>
void Append(const T& value, std::string& out) {
  out.append(reinterpret_cast<const char*>(&value), sizeof(value));
}

// Takes a T off the front of `in`; false when it is too short.
template <typename T>
bool Take(absl::string_view& in, T& value) {
  if (in.size() < sizeof(value)) return false;
  std::memcpy(&value, in.data(), sizeof(value));
  in.remove_prefix(sizeof(value));
  return true;
}

}  // namespace understudy::client

#endif  // UNDERSTUDY_CLIENT_PLAIN_VALUE_H_
