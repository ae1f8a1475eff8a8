// Looking at a replica, and telling its listener.
#include <utility>

#include "absl/strings/str_cat.h"

#include "storage/base/log.h"
#include "storage/replica_impl.h"

namespace understudy::storage {

std::shared_ptr<const Chain> ReplicaImpl::chain() const {
  base::ReaderLock lock(view_mutex_);
  return chain_;
}

void ReplicaImpl::Publish(std::shared_ptr<const Chain> next) {
  base::WriterLock lock(view_mutex_);
  chain_.swap(next);  // the old one ends outside the lock
}

ReplicaState ReplicaImpl::state() const {
  const std::shared_ptr<const Chain> chain = this->chain();
  ReplicaState state;
  state.usage.resize(volumes_.size());
  state.open_segments = hidden_log_.open_segments() + active_log_.open_segments();
  base::MutexLock lock(mutex_);
  state.stage = record_.stage;
  state.incarnation = record_.incarnation;
  state.term = record_.term;
  state.agent_id = record_.agent_id;
  state.epoch = open_epoch_;
  // The steps of a first sync are no checkpoints.
  state.committed_epoch = committed_.unix_micros == 0 ? Epoch() : committed_.epoch;
  state.committed_sequence = committed_.stream_id == stream_id_ ? committed_.sequence : 0;
  state.committed_time = absl::FromUnixMicros(committed_.unix_micros);
  state.checkpoint_bytes = committed_.bytes;
  state.checkpoint_duration = absl::Microseconds(static_cast<int64_t>(committed_.duration_micros));
  state.valid = chain->valid;
  state.incomplete = incomplete_;
  state.stream_id = stream_id_;
  state.received_sequence = received_sequence_;
  state.durable_sequence = durable_sequence_;
  state.prepared_epoch = record_.prepared_epoch;
  state.prepared_sequence = record_.prepared_stream == stream_id_ ? record_.prepared_sequence : 0;
  state.handing_over = handing_over_;
  state.handed_over = record_.handed_over;
  // After a failover all of them are on their way to the disk.
  const bool running = state.stage == Stage::kRunning;
  state.history_epochs = running ? history_epochs_ : 0;
  state.backlog_epochs = running ? backlog_epochs_ : chain->committed.size();
  state.overlay_bytes = overlay_usage_->load();
  state.overlay_bytes_max = context_.options.overlay_bytes_max;
  state.overlay_soft_mark = OverSoftMark();
  for (const VolumeInfo& volume : volumes_) {
    VolumeUsage& usage = state.usage[volume.id.value()];
    if (hidden_ != nullptr) usage.hidden_bytes = hidden_->bytes(volume.id);
    for (const PreparedOverlay& prepared : prepared_) {
      usage.hidden_bytes += prepared.overlay->bytes(volume.id);
    }
    for (const PendingFrame& frame : hidden_pending_) {
      if (frame.checkpoint == nullptr || frame.checkpoint->prepare || frame.checkpoint->published) {
        continue;
      }
      usage.hidden_bytes += frame.checkpoint->sealed->bytes(volume.id);
      for (const PreparedOverlay& before : frame.checkpoint->before) {
        usage.hidden_bytes += before.overlay->bytes(volume.id);
      }
    }
    if (state.stage != Stage::kNone && !running) {
      usage.failback_bytes = FailbackKnown() ? failback_map_.bytes(volume.id) : volume.size_bytes;
    }
    if (chain->active != nullptr) usage.active_bytes = chain->active->bytes(volume.id);
    for (size_t i = 0; i < chain->committed.size(); ++i) {
      (i < state.history_epochs ? usage.history_bytes : usage.committed_bytes) +=
          chain->committed[i]->bytes(volume.id);
    }
  }
  if (job_running_ && !job_.kind.empty()) state.jobs.push_back(job_);
  state.job_failure = job_status_;
  state.failure = failed_;
  for (const auto& disk : chain->disks) {
    if (disk != nullptr && state.failure.ok()) state.failure = disk->lost_vm_writes();
  }
  state.scrub = scrub_;
  if (scrub_.outcome == ScrubOutcome::kRunning) state.jobs.push_back(scrub_progress_);
  return state;
}

void ReplicaImpl::SetListener(ReplicaListener* listener) {
  {
    base::MutexLock lock(listener_mutex_);
    listener_ = listener;
    while (listener_calls_ > 0) listener_idle_.Wait(listener_mutex_);
  }
  absl::Status failed;
  {
    base::MutexLock lock(mutex_);
    failed = failed_;
  }
  // What went wrong before anybody listened, such as a disk that could not be opened at recovery.
  if (listener != nullptr && !failed.ok()) Report({.operation = "open", .status = failed});
}

void ReplicaImpl::CallListener(absl::FunctionRef<void(ReplicaListener&)> call) {
  ReplicaListener* listener = nullptr;
  {
    base::MutexLock lock(listener_mutex_);
    listener = listener_;
    if (listener == nullptr) return;
    ++listener_calls_;
  }
  call(*listener);
  base::MutexLock lock(listener_mutex_);
  if (--listener_calls_ == 0) listener_idle_.NotifyAll();
}

void ReplicaImpl::NotifyChange() {
  CallListener([](ReplicaListener& listener) { listener.OnChange(); });
}

void ReplicaImpl::TellIncomplete(bool was, bool is) {
  if (was == is) return;
  CallListener([is](ReplicaListener& listener) { listener.OnIncomplete(is); });
}

void ReplicaImpl::TellJob(const std::string& kind, const std::optional<absl::Status>& ended) {
  CallListener([&](ReplicaListener& listener) { listener.OnJob(kind, ended); });
}

void ReplicaImpl::Report(const BackgroundError& error) {
  base::LogError("background_error")
      .With("group", name_)
      .With("operation", error.operation)
      .With("volume", error.volume.has_value() ? volumes_[error.volume->value()].name : "")
      .With("status", error.status);
  CallListener([&](ReplicaListener& listener) { listener.OnBackgroundError(error); });
}

absl::Status ReplicaImpl::CheckVolume(VolumeId volume) const {
  if (volume.value() < volumes_.size()) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("group ", name_, " has no volume number ", volume.value()));
}

}  // namespace understudy::storage
