#include "client/ctl/watch_view.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/testing/scripted_clock.h"
#include "understudy/v1/replication.pb.h"

namespace understudy::ctl::watch_view_test {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;

const absl::Time kNow = testing::ScriptedClock().Now();
const absl::Duration kSteady = absl::Hours(1);

v1::WatchEvent Event(v1::WatchKind kind, const std::string& group = "vm1") {
  v1::WatchEvent event;
  event.set_kind(kind);
  event.set_group(group);
  event.set_unix_micros(absl::ToUnixMicros(kNow) + 250'000);
  return event;
}

v1::WatchEvent Status(v1::WatchKind kind, uint64_t received, const std::string& group = "vm1") {
  v1::WatchEvent event = Event(kind, group);
  v1::GroupStatus& status = *event.mutable_status();
  status.set_group(group);
  status.set_mode(v1::MODE_SECONDARY);
  status.set_stage(v1::STAGE_RUNNING);
  status.set_sync_state(v1::SYNC_STATE_ASSUMED);
  status.set_connected(true);
  status.set_epoch(13);
  status.set_committed_epoch(12);
  status.set_committed_unix_seconds(absl::ToUnixSeconds(kNow) - 5);
  status.set_received_bytes(received);
  return event;
}

int LinesOf(const std::string& text) {
  return static_cast<int>(std::count(text.begin(), text.end(), '\n'));
}

TEST(RateTest, IsTakenOverHalfASecondAndForgottenWhenNobodyLooks) {
  Rate rate;
  rate.Add(1000, kSteady);
  EXPECT_FALSE(rate.At(kSteady).has_value());
  rate.Add(2000, kSteady + absl::Milliseconds(100));  // too soon to say anything
  EXPECT_FALSE(rate.At(kSteady).has_value());
  rate.Add(3000, kSteady + absl::Milliseconds(500));
  EXPECT_EQ(rate.At(kSteady + absl::Seconds(1)), 4000);
  EXPECT_EQ(rate.At(kSteady + absl::Seconds(4)), 0);
  EXPECT_EQ(rate.Text(kSteady + absl::Seconds(1)), "3.9 KiB/s");
  rate.Add(10, kSteady + absl::Seconds(2));  // the daemon was restarted
  EXPECT_FALSE(rate.At(kSteady + absl::Seconds(2)).has_value());
  rate.Add(20, kSteady + absl::Seconds(3));
  EXPECT_EQ(rate.At(kSteady + absl::Seconds(3)), 10);
}

TEST(WatchViewTest, EachKindOfEventIsALineWithItsTime) {
  testing::ScriptedClock clock;
  WatchView view(clock);
  const auto line = [&](const v1::WatchEvent& event) {
    view.Add(event);
    return view.Line(event);
  };
  v1::WatchEvent checkpoint = Event(v1::WATCH_KIND_CHECKPOINT);
  checkpoint.set_epoch(12);
  EXPECT_EQ(line(checkpoint), "2023-11-14T22:13:20.250Z CHECKPOINT   vm1: epoch 12 committed\n");
  checkpoint.set_bytes(4096);
  checkpoint.set_duration_micros(2100);
  EXPECT_THAT(line(checkpoint), HasSubstr("epoch 12 committed, 4 KiB in 2.1 ms\n"));
  v1::WatchEvent stage = Event(v1::WATCH_KIND_STAGE);
  stage.set_stage(v1::STAGE_FAILOVER);
  stage.set_term(3);
  EXPECT_THAT(line(stage), HasSubstr("vm1: FAILOVER, term 3\n"));
  v1::WatchEvent error = Event(v1::WATCH_KIND_ERROR);
  error.mutable_error()->set_code("DATA_LOSS");
  error.mutable_error()->set_volume("vda");
  error.mutable_error()->set_operation("read");
  error.mutable_error()->set_length(512);
  error.mutable_error()->set_message("checksum mismatch");
  EXPECT_THAT(line(error), HasSubstr("DATA_LOSS of vda read [0, 512): checksum mismatch\n"));
  v1::WatchEvent job = Event(v1::WATCH_KIND_JOB_ENDED);
  job.set_job("commit");
  EXPECT_THAT(line(job), HasSubstr("vm1: commit job ended\n"));
  job.set_detail("no space");
  EXPECT_THAT(line(job), HasSubstr("vm1: commit job ended: no space\n"));
  EXPECT_THAT(line(Event(v1::WATCH_KIND_GAP, "")),
              HasSubstr(" GAP          events may be missing here"));
  EXPECT_EQ(line(Event(v1::WATCH_KIND_CURRENT, "")), "");
  EXPECT_EQ(line(Status(v1::WATCH_KIND_SNAPSHOT, 2 << 20)),
            "2023-11-14T22:13:20.250Z SNAPSHOT     vm1: SECONDARY, RUNNING, ASSUMED, connected, "
            "epoch 13 open, committed 12, 5 s ago, lag 0 s, received 2 MiB\n");
  for (int kind = v1::WATCH_KIND_OPENED; kind <= v1::WatchKind_MAX; ++kind) {
    EXPECT_NE(line(Event(static_cast<v1::WatchKind>(kind))), "") << kind;
  }
}

TEST(WatchViewTest, TheScreenShowsRatesProgressErrorsAndTheLastEvents) {
  testing::ScriptedClock clock;
  WatchView view(clock);
  view.Add(Status(v1::WATCH_KIND_SNAPSHOT, 0));
  v1::WatchEvent refresh = Status(v1::WATCH_KIND_REFRESH, 3 << 20);
  v1::JobStatus& job = *refresh.mutable_status()->add_jobs();
  job.set_kind("apply");
  job.set_done_bytes(1 << 20);
  job.set_total_bytes(4 << 20);
  clock.Advance(absl::Seconds(1));
  clock.Jump(
      -absl::Hours(1));  // somebody sets the clock: a rate is a matter of the time that goes by
  view.Add(refresh);
  refresh.mutable_status()->mutable_jobs(0)->set_done_bytes(2 << 20);
  refresh.mutable_status()->add_errors()->set_code("INTERNAL");
  clock.Advance(absl::Seconds(1));
  clock.Jump(absl::Hours(2));
  view.Add(refresh);
  view.Add(Event(v1::WATCH_KIND_INCOMPLETE));
  const std::string screen = view.Screen("heading", 40);
  EXPECT_THAT(screen, ::testing::StartsWith("heading\n\nvm1: SECONDARY, RUNNING\n"));
  EXPECT_THAT(screen, HasSubstr("  sync        ASSUMED, connected\n"));
  EXPECT_THAT(screen, HasSubstr("  received    3 MiB in 0 operations, 0 B/s\n"));
  EXPECT_THAT(screen,
              HasSubstr("  apply       [###############...............] 50 %, 2 MiB of 4 MiB, "
                        "1 MiB/s\n"));
  EXPECT_THAT(screen, HasSubstr("INTERNAL"));
  EXPECT_THAT(screen, HasSubstr("INCOMPLETE   vm1: operations are missing"));
}

TEST(WatchViewTest, GroupsThatHaveNoRoomGetOneLineEach) {
  testing::ScriptedClock clock;
  WatchView view(clock);
  for (int i = 0; i < 6; ++i) {
    v1::WatchEvent event = Status(v1::WATCH_KIND_SNAPSHOT, 0, absl::StrCat("vm", i));
    v1::JobStatus& job = *event.mutable_status()->add_jobs();
    job.set_kind("apply");
    job.set_done_bytes(1);
    job.set_total_bytes(4);
    view.Add(event);
    view.Add(Event(v1::WATCH_KIND_OPENED, absl::StrCat("vm", i)));
  }
  const std::string tall = view.Screen("h", 80);
  EXPECT_THAT(tall, AllOf(HasSubstr("vm5: SECONDARY"), Not(HasSubstr("GROUP"))));
  const std::string low = view.Screen("h", 14);
  EXPECT_THAT(low, AllOf(HasSubstr("GROUP  STAGE"), HasSubstr("\nvm5    RUNNING  ASSUMED"),
                         HasSubstr("apply 25 %"), HasSubstr("OPENED       vm5")));
  EXPECT_LE(LinesOf(low), 13);
}

TEST(WatchViewTest, ARemovedGroupGoesAndAfterAGapThoseThatHaveNoSnapshot) {
  testing::ScriptedClock clock;
  WatchView view(clock);
  for (const char* group : {"vm1", "vm2", "vm3"}) {
    view.Add(Status(v1::WATCH_KIND_SNAPSHOT, 0, group));
  }
  view.Add(Event(v1::WATCH_KIND_REMOVED, "vm1"));
  EXPECT_THAT(view.Screen("h", 80), Not(HasSubstr("vm1: SECONDARY")));
  view.Add(Event(v1::WATCH_KIND_GAP, ""));
  view.Add(Status(v1::WATCH_KIND_SNAPSHOT, 0, "vm2"));
  EXPECT_THAT(view.Screen("h", 80), HasSubstr("vm3: SECONDARY")) << "not known yet";
  view.Add(Event(v1::WATCH_KIND_CURRENT, ""));
  EXPECT_THAT(view.Screen("h", 80),
              AllOf(HasSubstr("vm2: SECONDARY"), Not(HasSubstr("vm3: SECONDARY")),
                    HasSubstr("events may be missing")));
}

}  // namespace
}  // namespace understudy::ctl::watch_view_test
