#include "storage/base/event_journal.h"

#include <cstring>
#include <random>
#include <utility>

#include "absl/strings/str_cat.h"

namespace understudy::base {
namespace {

size_t BytesOf(const Event& event) {
  return sizeof(Event) + event.group.size() + event.job.size() + event.detail.size() +
         event.error.volume.size() + event.error.operation.size() + event.error.message.size() +
         event.error.reason.size();
}

void PutBigEndian(uint64_t value, std::string& to) {
  for (int shift = 56; shift >= 0; shift -= 8) to.push_back(static_cast<char>(value >> shift));
}

uint64_t TakeBigEndian(absl::string_view from) {
  uint64_t value = 0;
  for (const char c : from) value = value << 8 | static_cast<unsigned char>(c);
  return value;
}

}  // namespace

uint64_t EventJournal::NewRun() {
  std::random_device device;
  return (static_cast<uint64_t>(device()) << 32) | device();
}

void EventJournal::Append(Event event) {
  EventListener* listener = nullptr;
  {
    MutexLock lock(mutex_);
    event.time = clock_.Now();
    event.number = ++newest_;
    bytes_ += BytesOf(event);
    events_.push_back(std::move(event));
    while (bytes_ > bytes_max_) {
      bytes_ -= BytesOf(events_.front());
      events_.pop_front();
    }
    listener = listener_;
    if (listener == nullptr) return;
    ++listener_calls_;
  }
  listener->OnEvent();
  MutexLock lock(mutex_);
  if (--listener_calls_ == 0) listener_idle_.NotifyAll();
}

EventJournal::Reading EventJournal::Read(const Position& position, const std::string& group) const {
  MutexLock lock(mutex_);
  const uint64_t oldest = newest_ + 1 - events_.size();
  if (position.run != run_ || position.number > newest_ || position.number + 1 < oldest) {
    return {.gap = true, .position = {run_, newest_}};
  }
  for (size_t i = position.number + 1 - oldest; i < events_.size(); ++i) {
    if (!group.empty() && events_[i].group != group) continue;
    return {.event = events_[i], .position = {run_, events_[i].number}};
  }
  return {.position = {run_, newest_}};
}

EventJournal::Position EventJournal::End() const {
  MutexLock lock(mutex_);
  return {run_, newest_};
}

void EventJournal::SetListener(EventListener* listener) {
  MutexLock lock(mutex_);
  listener_ = listener;
  while (listener_calls_ > 0) listener_idle_.Wait(mutex_);
}

std::string EncodePosition(const EventJournal::Position& position) {
  std::string bytes;
  PutBigEndian(position.run, bytes);
  PutBigEndian(position.number, bytes);
  return bytes;
}

absl::StatusOr<EventJournal::Position> DecodePosition(absl::string_view bytes) {
  if (bytes.size() != 16) {
    return absl::InvalidArgumentError(
        absl::StrCat("a resume token has 16 bytes, this one has ", bytes.size()));
  }
  return EventJournal::Position{.run = TakeBigEndian(bytes.substr(0, 8)),
                                .number = TakeBigEndian(bytes.substr(8))};
}

}  // namespace understudy::base
