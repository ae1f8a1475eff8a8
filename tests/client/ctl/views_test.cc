#include "client/ctl/views.h"

#include <string>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "understudy/v1/replication.pb.h"

namespace understudy::ctl::views_test {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;

const absl::Time kNow = absl::FromUnixSeconds(1'800'000'000);

v1::GetStatusResponse Standby() {
  v1::GetStatusResponse response;
  v1::GroupStatus& group = *response.add_groups();
  group.set_group("vm1");
  group.set_mode(v1::MODE_SECONDARY);
  group.set_stage(v1::STAGE_RUNNING);
  group.set_sync_state(v1::SYNC_STATE_ASSUMED);
  group.set_connected(true);
  group.set_term(3);
  group.set_epoch(13);
  group.set_committed_epoch(12);
  group.set_committed_unix_seconds(1'800'000'000 - 4);
  group.set_lag_seconds(0.25);
  group.set_incarnation("\x01\x02");
  v1::VolumeStatus& volume = *group.add_volumes();
  volume.set_name("root");
  volume.set_top_id("vm1/root");
  volume.set_disk_path("/srv/root.raw");
  volume.set_size_bytes(10ull << 30);
  volume.set_hidden_bytes(1536);
  volume.set_active_bytes(4096);
  volume.set_committed_unapplied_bytes(3 << 20);
  volume.set_history_bytes(5 << 20);
  group.set_history_epochs(24);
  group.set_overlay_bytes(70 << 20);
  group.set_nbd_connections(2);
  volume.set_received_sequence(77);
  return response;
}

TEST(StatusViewTest, ShowsStageEpochsLagSyncAndOverlays) {
  const std::string text = StatusView(Standby(), kNow);
  EXPECT_THAT(text, HasSubstr("vm1: SECONDARY, RUNNING\n"));
  EXPECT_THAT(text,
              HasSubstr("ASSUMED, connected\n              nothing is known to differ, but the "
                        "disks were never compared; verify proves it\n"));
  EXPECT_THAT(text, HasSubstr("13 open\n"));
  EXPECT_THAT(text, HasSubstr("12, 4 s ago\n"));
  EXPECT_THAT(text, HasSubstr("250 ms\n"));
  EXPECT_THAT(text, HasSubstr("incarnation 0102\n"));
  EXPECT_THAT(text, HasSubstr("root    10 GiB  1.5 KiB  4 KiB   3 MiB     5 MiB    #77       "
                              "vm1/root  /srv/root.raw\n"));
  EXPECT_THAT(text, HasSubstr("errors      none\n"));
}

TEST(StatusViewTest, ShowsWhatIsKeptAndWarnsAtTheSoftMark) {
  v1::GetStatusResponse response = Standby();
  EXPECT_THAT(
      StatusView(response, kNow),
      AllOf(HasSubstr("  history     24 epochs kept, 5 MiB\n"), HasSubstr("  overlays    70 MiB\n"),
            HasSubstr("  nbd         2 connections\n"), Not(HasSubstr("CLONE"))));
  v1::GroupStatus& group = *response.mutable_groups(0);
  group.set_overlay_bytes_max(80 << 20);
  group.set_overlay_soft_mark(true);
  v1::CloneStatus& clone = *group.add_clones();
  clone.set_name("drill");
  clone.set_epoch(9);
  clone.set_written_bytes(4096);
  clone.set_bytes_max(1 << 30);
  clone.set_expires_unix_micros(absl::ToUnixMicros(kNow + absl::Minutes(30)));
  clone.add_exports("vm1@drill/root");
  clone.add_exports("vm1@drill/data");
  const std::string text = StatusView(response, kNow);
  EXPECT_THAT(text, HasSubstr("  overlays    70 MiB of 80 MiB, NEARLY FULL: "));
  EXPECT_THAT(text,
              HasSubstr("drill  9      4 KiB    1 GiB  30 min   vm1@drill/root vm1@drill/data\n"));
}

TEST(HistoryViewTest, ShowsEachEpochAndTheCommandsForOne) {
  v1::HistoryResponse response;
  response.set_stage(v1::STAGE_RUNNING);
  const std::string ctl = "understudyctl --server b:7410";
  EXPECT_EQ(HistoryView(ctl, "vm1", response, kNow),
            "vm1: nothing to go back to in stage RUNNING\n");
  v1::HistoryEpoch& newest = *response.add_epochs();
  newest.set_epoch(12);
  newest.set_committed_unix_micros(absl::ToUnixMicros(kNow - absl::Minutes(5)));
  newest.set_bytes(3 << 20);
  for (const char* const name : {"root", "data"}) {
    v1::VolumeChange& change = *newest.add_volumes();
    change.set_volume(name);
    change.set_bytes(3 << 19);
  }
  v1::HistoryEpoch& applied = *response.add_epochs();
  applied.set_epoch(11);
  applied.set_on_disk(true);
  // Nothing under it that ends replication when it is pasted.
  EXPECT_EQ(
      HistoryView(ctl, "vm1", response, kNow),
      "EPOCH  COMMITTED             AGE        CHANGED  VOLUMES\n"
      "12     2027-01-15 07:55:00Z  5 min ago  3 MiB    root 1.5 MiB, data 1.5 MiB\n"
      "11     -                     -          -        applied: the secondary disk\n"
      "to test one, while replication goes on: understudyctl --server b:7410 clone vm1 --epoch "
      "11 --name NAME\n"
      "to go back to one for good: stop with --failover --epoch E; it ends replication and drops "
      "what is newer\n");
}

TEST(CloneViewTest, SaysHowToUseAndHowToEndIt) {
  v1::CloneResponse response;
  v1::CloneStatus& clone = *response.mutable_clone();
  clone.set_name("drill");
  clone.set_epoch(9);
  clone.set_bytes_max(1 << 30);
  clone.set_expires_unix_micros(absl::ToUnixMicros(kNow + absl::Hours(1)));
  clone.add_exports("vm1@drill/root");
  EXPECT_THAT(CloneView("ctl", "vm1", response, kNow),
              HasSubstr("start understudyd with --nbd-socket"));
  response.set_nbd_socket("/run/a b.sock");
  EXPECT_EQ(CloneView("understudyctl", "vm1", response, kNow),
            "vm1@drill: a writable view of epoch 9, for 60 min and 1 GiB of writes\n"
            "  export      vm1@drill/root\n"
            "  uri         nbd+unix:///vm1@drill/root?socket=/run/a%20b.sock\n"
            "  look at it  qemu-img info 'nbd+unix:///vm1@drill/root?socket=/run/a%20b.sock'\n"
            "  end it      understudyctl clone vm1 --remove drill\n");
}

TEST(StatusViewTest, ShowsJobsAndErrors) {
  v1::GetStatusResponse response = Standby();
  v1::GroupStatus& group = *response.mutable_groups(0);
  group.set_incomplete(true);
  v1::JobStatus& job = *group.add_jobs();
  job.set_kind("commit");
  job.set_done_bytes(1 << 20);
  job.set_total_bytes(4 << 20);
  v1::ReplicationError& error = *group.add_errors();
  error.set_code("DATA_LOSS");
  error.set_volume("root");
  error.set_operation("read");
  error.set_offset(4096);
  error.set_length(512);
  error.set_count(2);
  error.set_last_unix_micros(1'799'999'400'000'000);
  error.set_message("checksum mismatch");
  const std::string text = StatusView(response, kNow);
  EXPECT_THAT(text, HasSubstr("incomplete: no checkpoint can commit"));
  EXPECT_THAT(text, HasSubstr("commit  1 MiB  4 MiB  25 %\n"));
  EXPECT_THAT(text, HasSubstr("DATA_LOSS  root    read       -       2      10 min ago  [4096, "
                              "4608)  checksum mismatch\n"));
  EXPECT_THAT(text, Not(HasSubstr("errors      none")));
}

TEST(StatusViewTest, AnAgentShowsItsQueueAndDirtyBytes) {
  v1::GetStatusResponse response = Standby();
  v1::GroupStatus& group = *response.mutable_groups(0);
  group.set_mode(v1::MODE_PRIMARY);
  group.set_forward_queue_bytes(2048);
  group.set_acknowledged_sequence(41);
  group.mutable_volumes(0)->set_dirty_bytes(65536);
  group.mutable_volumes(0)->clear_disk_path();
  const std::string text = StatusView(response, kNow);
  EXPECT_THAT(text, HasSubstr("2 KiB not acknowledged; received there up to #41\n"));
  EXPECT_THAT(text, HasSubstr("root    10 GiB  64 KiB  (forwarded only)\n"));
}

TEST(ErrorViewTest, HealthyIsWhoHasNoErrorAndTheOtherEndWhileItReplicates) {
  v1::GetErrorResponse response;
  response.set_stage(v1::STAGE_RUNNING);
  EXPECT_EQ(ErrorView("vm1", response, kNow), "vm1: healthy, stage RUNNING\n");
  response.set_disconnected_seconds(300);
  const std::string gone =
      "stage RUNNING, but the other end is not there: not connected for 5 min, since 2027-01-15 "
      "07:55:00Z\n";
  EXPECT_EQ(ErrorView("vm1", response, kNow), "vm1: no errors, " + gone);
  response.add_errors()->set_message("full");
  EXPECT_THAT(ErrorView("vm1", response, kNow),
              AllOf(HasSubstr("full\n"), HasSubstr("vm1: " + gone)));
  response.Clear();
  response.set_stage(v1::STAGE_DONE);
  EXPECT_EQ(ErrorView("vm1", response, kNow),
            "vm1: no errors, stage DONE: nothing is replicated\n");
}

// Nothing is latched, and no other end is wanted: but no write of the VM is done.
TEST(ErrorViewTest, WhoHasHandedOverIsNotHealthy) {
  const std::string told =
      "but handed over: its VM's writes are refused until the standby gives it back\n";
  v1::GetErrorResponse response;
  response.set_stage(v1::STAGE_RUNNING);
  response.set_handed_over(true);
  EXPECT_EQ(ErrorView("vm1", response, kNow), "vm1: no errors, stage RUNNING, " + told);
  response.set_stage(v1::STAGE_DONE);
  EXPECT_EQ(ErrorView("vm1", response, kNow), "vm1: no errors, stage DONE, " + told);
  response.add_errors()->set_message("full");
  EXPECT_THAT(ErrorView("vm1", response, kNow),
              AllOf(HasSubstr("full\n"), HasSubstr("vm1: stage DONE, " + told)));
}

TEST(ErrorViewTest, WhatWasClearedIsShownOnceMore) {
  v1::ClearErrorResponse response;
  response.set_ignored(true);
  EXPECT_EQ(ClearErrorView("vm1", response, kNow), "vm1: no error was latched; nothing changed\n");
  response.set_ignored(false);
  response.add_errors()->set_message("full");
  EXPECT_THAT(ClearErrorView("vm1", response, kNow),
              AllOf(HasSubstr("full\n"), HasSubstr("vm1: cleared\n")));
}

TEST(ListViewTest, OneLinePerGroup) {
  EXPECT_EQ(ListView(Standby(), kNow),
            "GROUP  MODE       STAGE    SYNC     EPOCH  COMMITTED    LAG     VOLUMES  ERRORS\n"
            "vm1    SECONDARY  RUNNING  ASSUMED  13     12, 4 s ago  250 ms  1        0\n");
  EXPECT_EQ(ListView({}, kNow), "no groups\n");
}

TEST(AnswerViewTest, SaysWhatWasDoneAndWhatWasNot) {
  v1::CheckpointRequest request;
  request.set_group("vm1");
  v1::CheckpointResponse response;
  response.set_stage(v1::STAGE_RUNNING);
  response.set_epoch(12);
  response.set_bytes(1536);
  response.set_duration_micros(3100);
  EXPECT_EQ(CheckpointView(request, response), "vm1: epoch 12 committed, 1.5 KiB, 3.1 ms\n");
  request.set_mode(v1::CHECKPOINT_MODE_PREPARE);
  EXPECT_THAT(CheckpointView(request, response), HasSubstr("epoch 12 prepared"));
  response.set_stage(v1::STAGE_FAILOVER);
  response.set_ignored(true);
  EXPECT_EQ(CheckpointView(request, response), "vm1: ignored in stage FAILOVER; nothing changed\n");
  EXPECT_THAT(StartView("vm1", {}), HasSubstr("has not been reached yet"));
}

TEST(ViewsTest, AStartThatWillNotWorkSaysSoBelowIt) {
  v1::StartResponse response;
  response.set_stage(v1::STAGE_RUNNING);
  response.set_incarnation("\1");
  response.set_term(1);
  EXPECT_EQ(StartView("vm1", response), "vm1: RUNNING, term 1, incarnation 01\n");
  response.add_warnings("nothing can be received: make room");
  EXPECT_EQ(StartView("vm1", response),
            "vm1: RUNNING, term 1, incarnation 01\nwarning: nothing can be received: make room\n");
}

}  // namespace
}  // namespace understudy::ctl::views_test
