#include "server/rpc/checksums_handler.h"

#include <memory>
#include <optional>
#include <utility>

#include "proto/status_codec.h"
#include "server/checksum_scan.h"
#include "server/rpc/convert.h"
#include "storage/base/mutex.h"
#include "storage/base/status_macros.h"

namespace understudy::server {
namespace {

absl::StatusOr<ChecksumQuery> QueryFrom(const v1::ChecksumsRequest& request) {
  ChecksumQuery query{.group = request.group(),
                      .term = Term(request.term()),
                      .volume = request.volume(),
                      .offset = request.offset(),
                      .length = request.length()};
  ASSIGN_OR_RETURN(query.incarnation, IncarnationFrom(request.incarnation()));
  return query;
}

v1::ChecksumsResponse ToProto(ChecksumSlice slice) {
  v1::ChecksumsResponse response;
  response.set_offset(slice.range.start);
  response.set_length(slice.range.size());
  switch (slice.content) {
    case ChecksumSlice::Content::kHashes:
      response.set_hashes(std::move(slice.hashes));
      break;
    case ChecksumSlice::Content::kZero:
      response.set_zero(true);
      break;
    case ChecksumSlice::Content::kUnreadable:
      response.set_unreadable(true);
      break;
  }
  return response;
}

// What a call does next. It outlives the call, which may end while a thread of the pool is on a disk that hangs.
class Feed : public std::enable_shared_from_this<Feed> {
 public:
  using Reactor = grpc::ServerWriteReactor<v1::ChecksumsResponse>;

  Feed(Service& service, base::WorkerPool& pool, const v1::ChecksumsRequest& request,
       Reactor& reactor)
      : service_(service), pool_(pool), reactor_(reactor), request_(request) {}

  // Whatever can be begun is. The reactor lives at least until Finish(), which comes last and never during a write.
  void Go() {
    bool write = false;
    bool read = false;
    std::optional<absl::Status> finish;
    {
      base::MutexLock lock(mutex_);
      if (finished_) return;
      if (!writing_ && ready_) {
        outgoing_ = *std::move(ready_);
        ready_.reset();
        write = writing_ = true;
      } else if (!writing_ && end_) {
        finish = end_;
        finished_ = true;
      }
      if (!reading_ && !ready_ && !end_) read = reading_ = true;
    }
    if (write) reactor_.StartWrite(&outgoing_);
    if (finish) reactor_.Finish(proto::ToGrpcStatus(*finish));
    if (read) {
      pool_.Submit([self = shared_from_this()] { self->Read(); });
    }
  }

  void OnWritten(bool ok) {
    {
      base::MutexLock lock(mutex_);
      writing_ = false;
    }
    if (!ok) return End(absl::CancelledError("checksums: the agent has gone away"));
    Go();
  }

  // What is ready is not sent any more.
  void End(const absl::Status& status) {
    {
      base::MutexLock lock(mutex_);
      ready_.reset();
      if (!end_ || end_->ok()) end_ = status;
    }
    Go();
  }

 private:
  // On a thread of the pool; the scan is only touched here.
  void Read() {
    absl::StatusOr<std::optional<ChecksumSlice>> slice = Next();
    {
      base::MutexLock lock(mutex_);
      reading_ = false;
      if (end_) return;  // it was ended meanwhile, and is finished or will be when the write is
      if (!slice.ok()) {
        end_ = slice.status();
      } else if (!slice->has_value()) {
        end_ = absl::OkStatus();
      } else {
        ready_ = ToProto(**std::move(slice));
      }
    }
    Go();
  }

  absl::StatusOr<std::optional<ChecksumSlice>> Next() {
    if (scan_ == nullptr) {
      ASSIGN_OR_RETURN(const ChecksumQuery query, QueryFrom(request_));
      ASSIGN_OR_RETURN(scan_, ChecksumScan::Begin(service_, query));
    }
    return scan_->Next();
  }

  Service& service_;
  base::WorkerPool& pool_;
  Reactor& reactor_;
  const v1::ChecksumsRequest request_;
  std::unique_ptr<ChecksumScan> scan_;
  v1::ChecksumsResponse outgoing_;  // gRPC's while writing_

  base::Mutex mutex_;
  std::optional<v1::ChecksumsResponse> ready_ ABSL_GUARDED_BY(mutex_);
  std::optional<absl::Status> end_ ABSL_GUARDED_BY(mutex_);  // nothing more is read
  bool reading_ ABSL_GUARDED_BY(mutex_) = false;
  bool writing_ ABSL_GUARDED_BY(mutex_) = false;
  bool finished_ ABSL_GUARDED_BY(mutex_) = false;
};

class ChecksumsReactor final : public grpc::ServerWriteReactor<v1::ChecksumsResponse> {
 public:
  ChecksumsReactor(Service& service, base::WorkerPool& pool, const v1::ChecksumsRequest& request)
      : feed_(std::make_shared<Feed>(service, pool, request, *this)) {
    feed_->Go();
  }

  void OnWriteDone(bool ok) override { feed_->OnWritten(ok); }
  void OnCancel() override {
    feed_->End(absl::CancelledError("checksums: the agent has gone away"));
  }
  void OnDone() override { delete this; }

 private:
  const std::shared_ptr<Feed> feed_;
};

}  // namespace

grpc::ServerWriteReactor<v1::ChecksumsResponse>* ChecksumsHandler::Handle(
    const v1::ChecksumsRequest& request) {
  return new ChecksumsReactor(service_, pool_, request);
}

}  // namespace understudy::server
