// server/wire_cursor.h
//
// WireCursor walks protobuf wire format over bytes that lie in several slices. A cursor covers a run of bytes and never
// leaves it: whatever the input says, a read past the end fails and changes nothing that matters.
#ifndef UNDERSTUDY_SERVER_WIRE_CURSOR_H_
#define UNDERSTUDY_SERVER_WIRE_CURSOR_H_

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <span>
#include <vector>

namespace understudy::server {

enum class WireType : uint8_t { kVarint = 0, kFixed64 = 1, kBytes = 2, kFixed32 = 5 };

struct WireTag {
  uint64_t field = 0;
  WireType type = WireType::kVarint;
};

class WireCursor {
 public:
  explicit WireCursor(std::span<const std::span<const char>> slices) : slices_(slices) {
    for (const auto& slice : slices) remaining_ += slice.size();
  }

  uint64_t remaining() const { return remaining_; }

  bool ReadVarint(uint64_t& value) {
    value = 0;
    for (int shift = 0; shift < 70; shift += 7) {
      uint8_t byte;
      if (!ReadRaw(&byte, 1)) return false;
      if (shift == 63 && byte > 1) return false;
      value |= static_cast<uint64_t>(byte & 0x7f) << shift;
      if (byte < 0x80) return true;
    }
    return false;
  }

  bool ReadTag(WireTag& tag) {
    uint64_t value;
    if (!ReadVarint(value)) return false;
    tag = {.field = value >> 3, .type = static_cast<WireType>(value & 7)};
    return tag.field != 0 && tag.field < (1ULL << 29);
  }

  template <typename Number>
  bool ReadFixed(Number& value) {
    return ReadRaw(&value, sizeof(value));
  }

  // The next `bytes` bytes, where they lie, appended to `out`.
  bool Take(uint64_t bytes, std::vector<std::span<const char>>& out) {
    return Advance(bytes, [&out](std::span<const char> piece) { out.push_back(piece); });
  }

  // Narrows this cursor to the next `bytes` bytes and returns false when there are not as many.
  bool Enter(uint64_t bytes) {
    if (bytes > remaining_) return false;
    remaining_ = bytes;
    return true;
  }

  bool SkipField(WireType type) {
    uint64_t value;
    const auto nothing = [](std::span<const char>) {};
    switch (type) {
      case WireType::kVarint:
        return ReadVarint(value);
      case WireType::kFixed64:
        return Advance(8, nothing);
      case WireType::kFixed32:
        return Advance(4, nothing);
      case WireType::kBytes:
        return ReadVarint(value) && Advance(value, nothing);
    }
    return false;  // groups are not used
  }

  bool Skip(uint64_t bytes) {
    return Advance(bytes, [](std::span<const char>) {});
  }

 private:
  bool ReadRaw(void* out, size_t bytes) {
    char* to = static_cast<char*>(out);
    return Advance(bytes, [&to](std::span<const char> piece) {
      std::memcpy(to, piece.data(), piece.size());
      to += piece.size();
    });
  }

  template <typename Piece>
  bool Advance(uint64_t bytes, Piece piece) {
    if (bytes > remaining_) return false;
    remaining_ -= bytes;
    while (bytes > 0) {
      const std::span<const char> rest = slices_[index_].subspan(position_);
      const size_t taken = static_cast<size_t>(std::min<uint64_t>(rest.size(), bytes));
      if (taken > 0) piece(rest.first(taken));
      bytes -= taken;
      position_ += taken;
      if (position_ == slices_[index_].size()) {
        ++index_;
        position_ = 0;
      }
    }
    return true;
  }

  std::span<const std::span<const char>> slices_;
  size_t index_ = 0;
  size_t position_ = 0;
  uint64_t remaining_ = 0;
};

}  // namespace understudy::server

#endif  // UNDERSTUDY_SERVER_WIRE_CURSOR_H_
