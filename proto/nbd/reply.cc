#include "proto/nbd/reply.h"

#include <algorithm>
#include <string>
#include <utility>

#include "storage/base/block_hash.h"
#include "storage/base/text.h"

namespace understudy::nbd {
namespace {

// Looked at, and sent as a hole or not, as one.
constexpr size_t kHoleBytes = 32 << 10;
constexpr size_t kMessageBytesMax = 512;

void AppendChunk(std::string& head, ReplyStyle style, const RequestHeader& request, Chunk type,
                 uint16_t flags, uint64_t length) {
  const bool extended = style == ReplyStyle::kExtended;
  Append(head, extended ? kExtendedReplyMagic : kStructuredReplyMagic);
  Append(head, flags);
  Append(head, static_cast<uint16_t>(type));
  Append(head, request.cookie);
  if (extended) {
    Append(head, request.offset);
    Append(head, length);
  } else {
    Append(head, static_cast<uint32_t>(length));
  }
}

void AppendSimple(std::string& head, const RequestHeader& request, Error error) {
  Append(head, kSimpleReplyMagic);
  Append(head, static_cast<uint32_t>(error));
  Append(head, request.cookie);
}

struct Part {
  size_t start = 0;
  size_t end = 0;
  bool zero = false;
};

// Runs of data and of zeroes that cover `data`.
std::vector<Part> PartsOf(std::span<const char> data) {
  std::vector<Part> parts;
  for (size_t start = 0; start < data.size(); start += kHoleBytes) {
    const size_t end = std::min(start + kHoleBytes, data.size());
    const bool zero = base::AllZero(data.subspan(start, end - start));
    if (!parts.empty() && parts.back().zero == zero) {
      parts.back().end = end;
    } else {
      parts.push_back({.start = start, .end = end, .zero = zero});
    }
  }
  return parts;
}

}  // namespace

Error ErrorOf(const absl::Status& status) {
  switch (status.code()) {
    case absl::StatusCode::kInvalidArgument:
    case absl::StatusCode::kOutOfRange:
      return Error::kInvalid;
    case absl::StatusCode::kResourceExhausted:
      return Error::kNoSpace;
    case absl::StatusCode::kPermissionDenied:
      return Error::kPermission;
    case absl::StatusCode::kUnimplemented:
      return Error::kNotSupported;
    default:
      return Error::kIo;
  }
}

void AppendDone(Replies& replies, ReplyStyle style, const RequestHeader& request, Error error,
                absl::string_view message) {
  std::string& head = replies.head();
  const auto command = static_cast<Command>(request.command);
  const bool structured = command == Command::kRead || command == Command::kBlockStatus;
  if (style == ReplyStyle::kSimple || (style == ReplyStyle::kStructured && !structured)) {
    AppendSimple(head, request, error);
    return;
  }
  if (error == Error::kNone) {
    AppendChunk(head, style, request, Chunk::kNone, kDone, 0);
    return;
  }
  const std::string text = base::ToUtf8(message.substr(0, kMessageBytesMax));
  AppendChunk(head, style, request, Chunk::kError, kDone, 6 + text.size());
  Append(head, static_cast<uint32_t>(error));
  Append(head, static_cast<uint16_t>(text.size()));
  head.append(text);
}

void AppendRead(Replies& replies, ReplyStyle style, const RequestHeader& request, Buffer data) {
  std::string& head = replies.head();
  if (style == ReplyStyle::kSimple) {
    AppendSimple(head, request, Error::kNone);
    replies.Payload(data.data(), data.size());
    replies.Keep(std::move(data));
    return;
  }
  std::vector<Part> parts = PartsOf(data.span());
  if (parts.size() > 1 && (request.flags & kDf) != 0) parts = {{.start = 0, .end = data.size()}};
  for (const Part& part : parts) {
    const uint16_t flags = &part == &parts.back() ? kDone : 0;
    const size_t bytes = part.end - part.start;
    if (part.zero) {
      AppendChunk(head, style, request, Chunk::kOffsetHole, flags, 12);
      Append(head, request.offset + part.start);
      Append(head, static_cast<uint32_t>(bytes));
    } else {
      AppendChunk(head, style, request, Chunk::kOffsetData, flags, 8 + bytes);
      Append(head, request.offset + part.start);
      replies.Payload(data.data() + part.start, bytes);
    }
  }
  replies.Keep(std::move(data));
}

void AppendRuns(Replies& replies, ReplyStyle style, const RequestHeader& request,
                const std::vector<BlockRun>& runs) {
  std::string& head = replies.head();
  const bool extended = style == ReplyStyle::kExtended;
  const uint64_t bytes = extended ? 8 + 16 * runs.size() : 4 + 8 * runs.size();
  AppendChunk(head, style, request, extended ? Chunk::kBlockStatusExtended : Chunk::kBlockStatus,
              kDone, bytes);
  Append(head, kAllocationContextId);
  if (extended) Append(head, static_cast<uint32_t>(runs.size()));
  for (const BlockRun& run : runs) {
    const uint32_t state = (run.hole ? kStateHole : 0) | (run.zero ? kStateZero : 0);
    if (extended) {
      Append(head, run.range.size());
      Append(head, static_cast<uint64_t>(state));
    } else {
      Append(head, static_cast<uint32_t>(run.range.size()));
      Append(head, state);
    }
  }
}

}  // namespace understudy::nbd
