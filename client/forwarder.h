// client/forwarder.h
//
// Forwarder sends the writes of one group to its secondary, in one order over all volumes, and keeps them until they are
// durable there. This is the class an outsider uses:
//
//     WriteStream stream("standby:7410");
//     Forwarder forwarder({.group = "vm1", .volumes = {{"disk0", size}}, .agent_id = "host-a"}, &stream);
//     RETURN_IF_ERROR(forwarder.Start());
//     RETURN_IF_ERROR(forwarder.Write(0, offset, data));
//     const auto soon = base::Deadline::After(absl::Seconds(10));
//     ASSIGN_OR_RETURN(CheckpointResult checkpoint, forwarder.Checkpoint(soon));
//     RETURN_IF_ERROR(forwarder.Stop(/*drain=*/true, soon));
//
// Order        operations have the order in which the calls took their place in the window; a call that returned came before
//              one that began later. Overlapping concurrent writes are the caller's business (client/volume).
// Window       bounded by ForwarderOptions::window_bytes; when full see OnFull. Degraded: a write was skipped, INCOMPLETE went
//              ahead of anything later, the error is latched, and further writes are skipped, too, until BeginResync() or a new start.
// Resync       whoever knows what was skipped (ForwarderListener tells) sends it again: BeginResync(), Resend() of each range, EndResync(),
//              while Write() goes on. client/resync does; without it a group stays incomplete until Stop() and Start().
// Tickets      number the operations over all streams of this Forwarder, in their order: what was durable once stays durable.
// Connection   made and kept by the forwarder's own thread; a short outage loses nothing and shows in state() only.
// Threads      all methods from any thread. One leaf lock, never held across I/O, a copy of more than 16 KiB, a checksum or a
//              call to the transport.
// Errors       Write() and its like: kOutOfRange, kInvalidArgument the caller's range; kFailedPrecondition reason NOT_RUNNING
//              before Start() and after Stop(), reason HANDED_OVER, reason FENCED for good; kAborted reason INCOMPLETE when the write was skipped;
//              kUnavailable when AckMode cannot be kept because the peer is lost (the write stays queued).
#ifndef UNDERSTUDY_CLIENT_FORWARDER_H_
#define UNDERSTUDY_CLIENT_FORWARDER_H_

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <thread>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"

#include "client/client_types.h"
#include "client/error_log.h"
#include "client/forwarder_options.h"
#include "client/markers.h"
#include "client/transport.h"
#include "client/window.h"
#include "storage/base/block_write.h"
#include "storage/base/clock.h"
#include "storage/base/deadline.h"
#include "storage/base/event_journal.h"
#include "storage/base/mutex.h"

namespace understudy::client {

// What must be stored before it is used. Called with no lock held from the forwarder's thread and may do I/O, but for OnHandoverWanted()
// and OnMissed().
class ForwarderListener {
 public:
  virtual ~ForwarderListener() = default;
  // A new incarnation or term. The stream is used only after OK.
  virtual absl::Status OnGrant(const Grant& grant) = 0;
  virtual void OnFenced(const absl::Status& status) = 0;
  // The secondary is to take over without loss: let nobody write any more, lastingly, and then call HandOver(); both on another
  // thread, for this call must not block. Also when it knows of a hand-over that we do not.
  virtual void OnHandoverWanted() {}
  // It takes our writes again. The stream is used only after OK.
  virtual absl::Status OnHandoverTakenBack() { return absl::OkStatus(); }

  // What the secondary is told of the disks, with each heartbeat.
  virtual Proof KnownOfDisks() const { return Proof::kNone; }

  // The secondary may differ anywhere. The stream is used only after OK.
  virtual absl::Status OnUnknown() { return absl::OkStatus(); }
  // `range` is in no stream and not known to be at the secondary. Under the forwarder's lock: a leaf, no I/O.
  virtual void OnMissed(uint32_t /*volume*/, ByteRange /*range*/) {}
};

struct StartOptions {
  Grant grant;            // from an earlier run in the same stage RUNNING; none: ask for one
  bool takeover = false;  // raise the term and fence the agent that has the primaryship
  bool handed_over =
      false;  // by an earlier run: until the secondary lets us in again, nothing is taken
  ResumePoint
      resume;  // of an earlier run that ended with everything received and wrote nothing since
  // The caller knows of ranges that may differ at the secondary: the stream begins INCOMPLETE.
  bool incomplete = false;
  // The same, asked under the lock that orders it with OnMissed(): of what was written since the caller looked.
  std::function<bool()> missing;
  // It knows all of them that an earlier run under `grant` has left. Otherwise, when the secondary says that it misses something,
  // OnUnknown() follows.
  bool covered = false;
};

struct ForwarderVolumeState {
  uint64_t sent_data_bytes = 0;  // put on the wire, repetitions included
  uint64_t sent_zero_bytes = 0;
  uint64_t unacknowledged_bytes = 0;  // queued, not known durable there
  uint64_t missed_bytes = 0;          // skipped since Start() or the last resync
};

struct ForwarderState {
  bool running = false;
  bool connected = false;
  bool fenced = false;
  bool incomplete = false;  // writes are missing there: no checkpoint can commit
  bool skipping = false;    // and those that come now are not sent either
  SyncState sync_state = SyncState::kUnspecified;
  Grant grant;
  uint64_t stream_id = 0;
  uint64_t next_sequence = 1;
  uint64_t received_sequence = 0;
  uint64_t durable_sequence = 0;
  Epoch committed_epoch;
  absl::Time committed_time = absl::UnixEpoch();  // by our own clock; the epoch: no checkpoint yet
  uint64_t window_bytes = 0;                      // held now
  uint64_t unreceived_bytes = 0;                  // of these
  absl::Duration lag;  // age of the oldest write not known durable there; zero: none
  absl::Time last_contact = absl::UnixEpoch();  // for people: of the standby's last message
  // How long the standby has said nothing: since its last message, or since Start() when there was
  // none. By the steady clock; a restart of the agent is another Start(). Nothing while no word is
  // due: not running, handed over, or fenced.
  std::optional<absl::Duration> silence;
  // How old the newest checkpoint is, by the steady clock; the standby tells it after a restart of
  // the agent. Nothing before the first one, and while none is due: as silence.
  std::optional<absl::Duration> checkpoint_age;
  // Zero: the stream is there, or none is due.
  absl::Duration disconnected() const {
    return connected ? absl::ZeroDuration() : silence.value_or(absl::ZeroDuration());
  }
  absl::Duration round_trip;  // of the newest heartbeat
  uint64_t sessions_ok = 0;
  uint64_t sessions_failed = 0;
  std::map<std::string, uint64_t> failures;     // by reason, as understudy_replication_errors_total
  std::map<std::string, uint64_t> checkpoints;  // by result: ok, failed, aborted
  std::vector<ForwarderVolumeState> volumes;
};

class Forwarder : private TransportEvents {
 public:
  // `transport`, `clock`, `listener` and `journal` (these two may be null) outlive this. REQUIRES: options.Validate() is OK.
  Forwarder(ForwarderOptions options, Transport* transport,
            const base::Clock& clock = base::Clock::Real(), ForwarderListener* listener = nullptr,
            base::EventJournal* journal = nullptr);
  ~Forwarder() override;  // Stop(false)

  // Begins a new stream, or with StartOptions::resume goes on with an earlier one.
  absl::Status Start(const StartOptions& options = {});
  // With `drain`: returns when everything is durable there; kUnavailable at the deadline, and then it is still running.
  // Otherwise what is queued is dropped. Afterwards resume_point() says whether the stream can go on.
  absl::Status Stop(bool drain, const base::Deadline& deadline = base::Deadline::Never());
  ResumePoint resume_point() const;

  // `ticket`, where wanted: of the last operation that was queued for it, also when the call fails then; else unchanged.
  absl::Status Write(uint32_t volume, uint64_t offset, std::span<const char> data,
                     uint64_t* ticket = nullptr);
  absl::Status WriteZeroes(uint32_t volume, uint64_t offset, uint64_t length,
                           uint64_t* ticket = nullptr);
  absl::Status Discard(uint32_t volume, uint64_t offset, uint64_t length,
                       uint64_t* ticket = nullptr);
  // As so many Write(), in their order, but small ones take their place together. `results`, as
  // many as `writes`: those that are not OK before are passed over.
  void WriteAll(uint32_t volume, std::span<const BlockWrite> writes,
                std::span<absl::Status> results, uint64_t* ticket = nullptr);
  // Takes as many of the first writes as can be taken at once, and returns how many; these are
  // done. It overtakes nobody who waits for room, and waits itself neither for that nor for
  // anything else, so it takes none that Write() would
  // refuse, skip or wait for, none of more than 256 KiB, and none at all unless AckMode is
  // kForwarded. A few that came together may leave 0.2 ms later, so that several share a frame.
  size_t TryWrite(uint32_t volume, std::span<const BlockWrite> writes);
  // With nothing of the volume queued since the last flush of any volume, no FLUSH joins the
  // stream, and only what AckMode asks for is waited for.
  absl::Status Flush(uint32_t volume);
  // Of the newest operation such that it and all before it are durable there, or were reported by OnMissed().
  uint64_t durable_ticket() const;
  // The caller knows that `range` differs there and was not queued (a local write that failed half-way).
  void NoteMissed(uint32_t volume, ByteRange range, const absl::Status& cause);

  // Marks the stream and waits until the secondary has committed the epoch. kAborted reason INCOMPLETE: it never will;
  // kUnavailable: no connection until the deadline; kDeadlineExceeded: no answer until then; kCancelled. After these the
  // marker may still commit, and the next call returns its epoch.
  absl::StatusOr<CheckpointResult> Checkpoint(const base::Deadline& deadline);

  // The same for the first of three steps: the epoch is sealed at the marker and durable there, and waits to be committed. Errors
  // alike, but nothing is left of a call that failed: one that is repeated seals another epoch, with what the first one has.
  absl::StatusOr<CheckpointResult> Prepare(const base::Deadline& deadline);

  // ---- resync: forwarder_resync.cc; one caller ----------------------------------------------------------------------------

  // Returns when the group is incomplete and connected, with room for more; from then on writes are taken into the stream again.
  // kDeadlineExceeded, kCancelled: not until then. kFailedPrecondition reason NOT_RUNNING, FENCED.
  absl::Status BeginResync(const base::Deadline& deadline);
  // Until the VM's own writes leave room in the window. kAborted: writes are skipped again, kUnavailable: the connection is gone; begin
  // anew. kDeadlineExceeded, kCancelled.
  absl::Status AwaitSpareRoom(uint64_t bytes, const base::Deadline& deadline);
  // Queues a part of what was missed without waiting; zeroes as ZERO. The caller keeps writes to the range away. kAborted as above.
  absl::Status Resend(uint32_t volume, uint64_t offset, std::span<const char> data,
                      uint64_t* ticket);
  // Ends the INCOMPLETE, and takes a checkpoint, if `nothing_missing` says so under the lock that orders it with OnMissed(); else
  // kAborted. After any other error than that the stream is complete all the same, and the next checkpoint takes the missed
  // writes' errors away.
  absl::StatusOr<CheckpointResult> EndResync(absl::FunctionRef<bool()> nothing_missing,
                                             const base::Deadline& deadline);
  // Running, not fenced and not handed over; else Write()'s error.
  absl::Status CheckTakesWrites() const;
  // The caller wants a resync though nothing may be missing: INCOMPLETE, with that reason, until it ends.
  absl::Status MakeIncomplete(const absl::Status& cause);
  // Until everything queued so far has been received, or is durable, there. kUnavailable at the deadline; kAborted when a new stream
  // has begun meanwhile.
  absl::Status AwaitReceived(const base::Deadline& deadline);
  absl::Status AwaitDurable(const base::Deadline& deadline);

  // The answer to OnHandoverWanted(), once nothing is being written any more: ends the stream with a HANDOVER and returns when the
  // secondary has committed it, with where the stream would go on. From its call on Write() and its like fail with reason HANDED_OVER.
  // kAborted reason INCOMPLETE and kCancelled: there was and will be none, and writes are taken again. After any other error that
  // is not known.
  absl::StatusOr<ResumePoint> HandOver();
  // The other answer: it cannot be done now. Tells the secondary by ending the connection.
  void RefuseHandover();

  // Until connected, fenced or the deadline; returns state().
  ForwarderState WaitForAnswer(const base::Deadline& deadline) const;
  ForwarderState state() const;
  ErrorLog& errors() { return errors_; }
  // Why no checkpoint of an incomplete group can commit: says which extents are missing, as far as it is known here.
  absl::Status IncompleteError() const;
  const ForwarderOptions& options() const { return options_; }
  // Marker to commit, of the checkpoints that succeeded since the last call; at most 1024 are kept.
  std::vector<absl::Duration> TakeCheckpointDurations();

 private:
  enum class Session : uint8_t { kNone, kConnecting, kConnected, kClosing };
  // kWanted: the listener was asked. kQueued: HANDOVER is in the window. kDone: the secondary has committed it.
  enum class Handover : uint8_t { kNone, kWanted, kQueued, kDone };

  // Where an operation stands; stream 0: nowhere.
  struct Place {
    uint64_t stream = 0;
    uint64_t sequence = 0;
  };

  // The way of an operation: forwarder.cc.
  absl::Status CheckRange(uint32_t volume, uint64_t offset, uint64_t length) const;
  absl::Status CheckRunningLocked() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  absl::Status WaitForRoom(uint32_t volume, ByteRange range, uint64_t bytes)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  absl::Duration StallLimitLocked() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  bool StalledLocked(absl::Duration since) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  absl::Status QueueRange(OperationKind kind, uint32_t volume, uint64_t offset, uint64_t length,
                          uint64_t* ticket);
  uint64_t TicketLocked(uint64_t sequence) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  absl::Status WaitForAck(Place place);
  uint64_t AcknowledgedLocked() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);  // as --ack asks for
  absl::Status MissLocked(uint32_t volume, ByteRange range) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // `volume` and `range`: the first write that is missing, when it is known; the INCOMPLETE carries it to the secondary.
  void DegradeLocked(const absl::Status& cause, uint32_t volume, ByteRange range)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void MarkIncompleteLocked(const absl::Status& cause, uint32_t volume = 0, ByteRange range = {})
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void MarkStartIncompleteLocked() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void TellMissedLocked(uint32_t volume, ByteRange range) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  absl::Status AwaitQueued(bool durable, const base::Deadline& deadline);
  absl::Status CheckResyncLocked() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // The standby says that it misses operations, and not because of the INCOMPLETE that a COMPLETE on its way ends.
  bool BehindLocked(bool incomplete, uint64_t received) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void EndMissedLocked(uint64_t committed) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  uint64_t AppendMarkerLocked(MarkerOwner owner) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // The outcome of a marker; nothing when there was none before the deadline.
  std::optional<absl::StatusOr<CheckpointResult>> AwaitLocked(Markers& markers, uint64_t marker,
                                                              const base::Deadline& deadline)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  absl::Status TooLateLocked(const base::Deadline& deadline, absl::string_view consequence) const
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  absl::Status WaitWhileDrainingLocked(const base::Deadline& deadline)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  absl::Status WaitUntilDurable(const base::Deadline& deadline);
  // Sends what can be sent now. Called without the lock after anything that may have made a frame ready.
  void Pump();
  void PumpUnlessLeft();
  // What waits is left for the sender, which sends it when it has waited for company.
  bool LeftLocked() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void RunSender();
  bool DurableWantedLocked() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void CountSent(const Frame& frame);

  // Writes with data: forwarder_writes.cc.
  // One turn at the window for as many of the first writes as it has room for, 256 KiB at most.
  // `overtakes`: also while somebody waits for room.
  size_t QueueFitting(uint32_t volume, std::span<const BlockWrite> writes, bool overtakes,
                      uint64_t* ticket, Place* last);
  bool TakesAtOnceLocked() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  absl::Status QueueWrite(uint32_t volume, uint64_t offset, std::span<const char> data,
                          uint64_t* ticket, Place* last);
  absl::StatusOr<Window::Slot> QueuePiece(uint32_t volume, uint64_t offset,
                                          std::span<const char> data, uint64_t* ticket);

  // The connection: forwarder_session.cc.
  void OnReply(uint64_t session, const HandshakeReply& reply) override;
  void OnAck(uint64_t session, const Ack& ack) override;
  void OnCheckpointWanted(uint64_t session) override;
  void OnHandoverWanted(uint64_t session) override;
  void OnFrameSent(uint64_t session) override;
  void OnClosed(uint64_t session, const absl::Status& status) override;
  void Run();
  absl::Duration RunOnce();  // one look at what is due; returns how long to wait for the next
  void Connect();
  // The handshake: forwarder_handshake.cc.
  void AcceptReply(const HandshakeReply& reply);
  // Whether our sequences and the secondary's fit together.
  bool KnownLocked(const HandshakeReply& reply) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Whether what the secondary has lost is in the window, or remembered.
  bool LossKnownLocked(const HandshakeReply& reply) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Whether nobody here can say what the secondary misses.
  bool UnknownLocked(const HandshakeReply& reply) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  absl::Status CheckReplyLocked(const HandshakeReply& reply) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void ResumeLocked(const HandshakeReply& reply) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // What the window holds may or may not be there.
  void MissWindowLocked() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void LatchWindowLocked(const absl::Status& cause) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void CountCrcFailureLocked(uint64_t received) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void NewStreamLocked() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void CommittedLocked(const CheckpointResult& result) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void FailMarkersLocked(const absl::Status& status) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void CountMarkersLocked(const std::vector<Markers::Finished>& finished)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  bool OnClosedLocked(const absl::Status& status) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void ClassifyCloseLocked(const absl::Status& status, bool was_connected)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // A marker that was received before the reconnect and is not answered has lost its answer for good: whoever waits for it gets a
  // new one.
  void RepeatUnansweredMarkers();
  void SendHeartbeat();
  // The hand-over: forwarder_handover.cc.
  bool HandedOverLocked() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  absl::Status HandedOverError() const;
  // A handshake was accepted: what we had handed over is ours again. Whether that is news.
  bool TakeBackHandoverLocked(const HandshakeReply& reply) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // The secondary refuses us because we have handed over. Whether that is news.
  bool SettleHandoverLocked() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void CloseSession();
  void ContactLocked() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void NotifyLocked() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Under the lock that orders the changes.
  void TellLocked(base::Event event) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  ForwarderState StateLocked() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  SyncState SyncStateLocked() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const ForwarderOptions options_;
  Transport* const transport_;
  const base::Clock& clock_;
  ForwarderListener* const listener_;
  base::EventJournal* const journal_;
  ErrorLog errors_;
  // Touched by Start() and Stop() only, which exclude each other through changing_.
  std::thread thread_;
  std::thread sender_;

  mutable base::Mutex mutex_;
  mutable base::CondVar changed_;  // acknowledgements, room, outcomes: for callers that wait
  base::CondVar wake_;             // for the thread
  base::CondVar sender_wake_;
  Window window_ ABSL_GUARDED_BY(mutex_);
  int room_waiters_ ABSL_GUARDED_BY(mutex_) = 0;
  Markers markers_ ABSL_GUARDED_BY(mutex_);   // CHECKPOINT
  Markers prepares_ ABSL_GUARDED_BY(mutex_);  // PREPARE
  // How far we are: running is what Write() asks; changing excludes Start() and Stop(); draining holds
  // writers back.
  bool running_ ABSL_GUARDED_BY(mutex_) = false;
  bool changing_ ABSL_GUARDED_BY(mutex_) = false;
  bool draining_ ABSL_GUARDED_BY(mutex_) = false;
  bool fenced_ ABSL_GUARDED_BY(mutex_) = false;
  absl::Status fenced_status_ ABSL_GUARDED_BY(mutex_);
  bool fenced_reported_ ABSL_GUARDED_BY(mutex_) = false;
  // incomplete_: of INCOMPLETE and COMPLETE the former was queued last. skipping_: writes are missed, not queued.
  bool incomplete_ ABSL_GUARDED_BY(mutex_) = false;
  absl::Duration incomplete_since_ ABSL_GUARDED_BY(mutex_);
  bool skipping_ ABSL_GUARDED_BY(mutex_) = false;
  uint64_t complete_sequence_ ABSL_GUARDED_BY(mutex_) = 0;  // of the newest COMPLETE; 0: none
  bool missed_told_ ABSL_GUARDED_BY(mutex_) =
      false;  // errors_ has missed writes that no checkpoint has made good
  bool covered_ ABSL_GUARDED_BY(mutex_) = false;
  bool incomplete_at_start_ ABSL_GUARDED_BY(mutex_) = false;  // to be said yet
  bool skipped_while_stopped_ ABSL_GUARDED_BY(mutex_) = false;
  Handover handover_ ABSL_GUARDED_BY(mutex_) = Handover::kNone;
  uint64_t handover_sequence_ ABSL_GUARDED_BY(mutex_) = 0;  // of the HANDOVER, when kQueued
  // The stream.
  uint64_t stream_id_ ABSL_GUARDED_BY(mutex_) = 0;
  uint64_t streams_ ABSL_GUARDED_BY(mutex_) = 0;  // begun so far: the upper part of a ticket
  // What was acknowledged of what the last stop dropped, for --ack.
  uint64_t durable_at_stop_ ABSL_GUARDED_BY(mutex_) = 0;
  uint64_t received_at_stop_ ABSL_GUARDED_BY(mutex_) = 0;
  bool resumable_ ABSL_GUARDED_BY(mutex_) = false;
  Grant grant_ ABSL_GUARDED_BY(mutex_);
  bool takeover_ ABSL_GUARDED_BY(mutex_) = false;
  std::vector<uint32_t> volume_ids_ ABSL_GUARDED_BY(mutex_);
  Epoch committed_epoch_ ABSL_GUARDED_BY(mutex_);
  uint64_t committed_sequence_ ABSL_GUARDED_BY(mutex_) = 0;
  absl::Time committed_time_ ABSL_GUARDED_BY(mutex_) = absl::UnixEpoch();
  absl::Duration committed_at_ ABSL_GUARDED_BY(mutex_);  // the same, as Clock::Monotonic()
  uint64_t durable_needed_ ABSL_GUARDED_BY(mutex_) =
      0;  // somebody waits for, or room needs, durable through here
  uint64_t durable_asked_ ABSL_GUARDED_BY(mutex_) = 0;  // the secondary was asked for it
  absl::Duration last_progress_ ABSL_GUARDED_BY(mutex_);
  // The session.
  Session session_state_ ABSL_GUARDED_BY(mutex_) = Session::kNone;
  uint64_t session_ ABSL_GUARDED_BY(mutex_) = 0;
  bool sending_ ABSL_GUARDED_BY(mutex_) = false;
  absl::Duration frame_began_ ABSL_GUARDED_BY(mutex_) = -absl::InfiniteDuration();  // the newest
  uint64_t left_bytes_ ABSL_GUARDED_BY(mutex_) = 0;  // by TryWrite(), since the newest Pump()
  bool urgent_ ABSL_GUARDED_BY(mutex_) = false;      // what waits is not only what was left
  bool sender_asleep_ ABSL_GUARDED_BY(mutex_) = false;
  bool connected_once_ ABSL_GUARDED_BY(mutex_) = false;  // this session has been kConnected
  std::optional<HandshakeReply> reply_ ABSL_GUARDED_BY(mutex_);
  bool lost_ ABSL_GUARDED_BY(mutex_) = false;
  absl::Duration last_contact_ ABSL_GUARDED_BY(mutex_);
  absl::Duration session_began_ ABSL_GUARDED_BY(mutex_);
  absl::Time last_contact_time_ ABSL_GUARDED_BY(mutex_) = absl::UnixEpoch();
  absl::Duration connected_at_ ABSL_GUARDED_BY(mutex_);
  // What the secondary had when it connected; 0 once the markers up to there are settled.
  uint64_t received_at_connect_ ABSL_GUARDED_BY(mutex_) = 0;
  absl::Duration last_heartbeat_ ABSL_GUARDED_BY(mutex_);
  absl::Duration next_attempt_ ABSL_GUARDED_BY(mutex_);
  absl::Duration backoff_ ABSL_GUARDED_BY(mutex_);
  absl::Duration round_trip_ ABSL_GUARDED_BY(mutex_);
  bool closed_by_crc_ ABSL_GUARDED_BY(mutex_) = false;
  uint64_t crc_sequence_ ABSL_GUARDED_BY(mutex_) = 0;
  int crc_failures_ ABSL_GUARDED_BY(mutex_) = 0;
  // Figures.
  uint64_t sessions_ok_ ABSL_GUARDED_BY(mutex_) = 0;
  uint64_t sessions_failed_ ABSL_GUARDED_BY(mutex_) = 0;
  std::map<std::string, uint64_t> failures_ ABSL_GUARDED_BY(mutex_);
  std::map<std::string, uint64_t> checkpoints_ ABSL_GUARDED_BY(mutex_);
  std::vector<absl::Duration> checkpoint_durations_ ABSL_GUARDED_BY(mutex_);
  std::vector<ForwarderVolumeState> figures_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace understudy::client

#endif  // UNDERSTUDY_CLIENT_FORWARDER_H_
