#include "client/rpc/standby_checksums.h"

#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"

#include "client/rpc/frame_encoder.h"
#include "proto/grpc_channel.h"
#include "proto/status_codec.h"
#include "storage/base/block_hash.h"
#include "storage/base/deadline.h"
#include "storage/base/status_macros.h"

namespace understudy::client {
namespace {

constexpr uint64_t kHashedBytesMax = 1 << 20;  // of a slice, as the protocol says

v1::ChecksumsRequest RequestFor(const std::string& group, const Grant& grant,
                                const std::string& volume, ByteRange range) {
  v1::ChecksumsRequest request;
  request.set_group(group);
  request.set_incarnation(EncodeIncarnation(grant.incarnation));
  request.set_term(grant.term.value());
  request.set_volume(volume);
  request.set_offset(range.start);
  request.set_length(range.size());
  return request;
}

// What comes when `rest` is still to come.
absl::StatusOr<ChecksumSlice> SliceFrom(v1::ChecksumsResponse& response, ByteRange rest) {
  const uint64_t length = response.length();
  if (response.offset() != rest.start || length == 0 || length > rest.size()) {
    return absl::InternalError(absl::StrCat("a slice at offset ", response.offset(), " of length ",
                                            length, " came where ", rest.ToString(),
                                            " was to come"));
  }
  ChecksumSlice slice{.range = ByteRange::OfLength(rest.start, length)};
  // Only the last block of all may be shorter.
  if (slice.range.end != rest.end && length % base::kHashBlockBytes != 0) {
    return absl::InternalError(
        absl::StrCat("slice ", slice.range.ToString(), " does not end on a block"));
  }
  switch (response.content_case()) {
    case v1::ChecksumsResponse::kHashes: {
      slice.content = ChecksumSlice::Content::kHashes;
      slice.hashes = std::move(*response.mutable_hashes());
      const uint64_t blocks = RoundUp(length, base::kHashBlockBytes) / base::kHashBlockBytes;
      if (length <= kHashedBytesMax && slice.hashes.size() == blocks * base::kBlockHashBytes) {
        return slice;
      }
      return absl::InternalError(absl::StrCat("slice ", slice.range.ToString(), " has ",
                                              slice.hashes.size(), " bytes of hashes"));
    }
    case v1::ChecksumsResponse::kZero:
      return slice;
    case v1::ChecksumsResponse::kUnreadable:
      slice.content = ChecksumSlice::Content::kUnreadable;
      return slice;
    case v1::ChecksumsResponse::CONTENT_NOT_SET:
      break;
  }
  return absl::InternalError(
      absl::StrCat("slice ", slice.range.ToString(), " says nothing that this agent knows"));
}

}  // namespace

// One call. It is destroyed only after its OnDone().
class StandbyChecksums::Call : public grpc::ClientReadReactor<v1::ChecksumsResponse> {
 public:
  void Begin(v1::PrimaryWrites::Stub& stub, const v1::ChecksumsRequest& request) {
    request_ = request;
    stub.async()->Checksums(&context_, &request_, this);
    AddHold();  // reads come from outside the reactions; released in Finish()
    StartRead(&incoming_);
    StartCall();
  }
  void Cancel() { context_.TryCancel(); }

  // The next message; nullptr when there is none any more, see Finish(). kUnavailable when nothing comes for so long.
  absl::StatusOr<v1::ChecksumsResponse*> Next(absl::Duration timeout) {
    const base::Deadline deadline = base::Deadline::After(timeout);
    base::MutexLock lock(mutex_);
    while (read_ == std::nullopt) {
      if (!deadline.Wait(changed_, mutex_) && read_ == std::nullopt) {
        return absl::UnavailableError(
            absl::StrCat("the standby has said nothing for ", absl::FormatDuration(timeout)));
      }
    }
    return *read_ ? &incoming_ : nullptr;
  }
  // What Next() returned is used up.
  void ReadOn() {
    {
      base::MutexLock lock(mutex_);
      read_.reset();
    }
    StartRead(&incoming_);
  }
  // After Cancel(), or when there is nothing more to read. Once, and last.
  absl::Status Finish() {
    RemoveHold();
    base::MutexLock lock(mutex_);
    while (!done_.has_value()) changed_.Wait(mutex_);
    return *done_;
  }

  void OnReadDone(bool ok) override {
    base::MutexLock lock(mutex_);
    read_ = ok;
    changed_.NotifyAll();
  }
  void OnDone(const grpc::Status& status) override {
    // Under the lock to the end: who waits destroys this.
    base::MutexLock lock(mutex_);
    done_ = proto::FromGrpcStatus(status);
    changed_.NotifyAll();
  }

 private:
  v1::ChecksumsRequest request_;
  grpc::ClientContext context_;
  v1::ChecksumsResponse incoming_;  // gRPC's until read_ is set
  base::Mutex mutex_;
  base::CondVar changed_;
  std::optional<bool> read_
      ABSL_GUARDED_BY(mutex_);  // the read has ended; false: without a message
  std::optional<absl::Status> done_ ABSL_GUARDED_BY(mutex_);
};

StandbyChecksums::StandbyChecksums(const std::string& server, absl::Duration slice_timeout)
    : server_(server), slice_timeout_(slice_timeout) {}

StandbyChecksums::~StandbyChecksums() = default;

absl::Status StandbyChecksums::Fetch(const std::string& group, const Grant& grant,
                                     const std::string& volume, ByteRange range,
                                     absl::FunctionRef<absl::Status(ChecksumSlice)> take) {
  const std::string what = absl::StrCat("group ", group, ": checksums of volume ", volume);
  const absl::Status cancelled = absl::CancelledError(absl::StrCat(what, ": not wanted any more"));
  Call call;
  std::shared_ptr<v1::PrimaryWrites::Stub> stub;
  {
    base::MutexLock lock(mutex_);
    if (cancelled_) return cancelled;
    if (stub_ == nullptr) stub_ = v1::PrimaryWrites::NewStub(proto::MakeChannel(server_));
    stub = stub_;
    call.Begin(*stub, RequestFor(group, grant, volume, range));
    calls_.insert(&call);
  }
  absl::Status taken;
  const absl::Status read = Read(call, what, range, [&](ChecksumSlice slice) {
    taken = take(std::move(slice));
    return taken;
  });
  base::MutexLock lock(mutex_);
  calls_.erase(&call);
  if (cancelled_) return cancelled;
  if (taken.ok() && absl::IsUnavailable(read) && stub_ == stub) stub_ = nullptr;
  return read;
}

absl::Status StandbyChecksums::Read(Call& call, const std::string& what, ByteRange range,
                                    absl::FunctionRef<absl::Status(ChecksumSlice)> take) const {
  const auto read = [&]() -> absl::Status {
    while (true) {
      const absl::StatusOr<v1::ChecksumsResponse*> response = call.Next(slice_timeout_);
      RETURN_IF_ERROR(Annotate(response.status(), what));
      if (*response == nullptr) return absl::OkStatus();
      absl::StatusOr<ChecksumSlice> slice = SliceFrom(**response, range);
      RETURN_IF_ERROR(Annotate(slice.status(), what));
      range.start = slice->range.end;
      call.ReadOn();
      RETURN_IF_ERROR(take(*std::move(slice)));
    }
  };
  const absl::Status status = read();
  if (!status.ok()) call.Cancel();
  const absl::Status done = call.Finish();
  RETURN_IF_ERROR(status);
  if (absl::IsUnavailable(done)) return Annotate(done, what);  // gRPC's own words name nobody
  RETURN_IF_ERROR(done);
  if (range.empty()) return absl::OkStatus();
  return absl::InternalError(absl::StrCat(what, ": they end before ", range.ToString()));
}

void StandbyChecksums::Cancel() {
  base::MutexLock lock(mutex_);
  cancelled_ = true;
  for (Call* const call : calls_) call->Cancel();
}

}  // namespace understudy::client
