#include "client/metrics/metrics.h"

#include <map>
#include <memory>
#include <string>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <prometheus/metric_family.h>

#include "client/agent_state.h"
#include "client/primary.h"
#include "storage/base/error_reason.h"
#include "storage/base/file_system.h"
#include "tests/client/fake_transport.h"

namespace understudy::client::metrics_test {
namespace {

using ::testing::AllOf;
using ::testing::Contains;
using ::testing::Key;
using ::testing::Not;

constexpr uint64_t kDiskBytes = 1 << 20;

base::Deadline Soon() { return base::Deadline::After(absl::Seconds(10)); }

class MetricsTest : public ::testing::Test {
 protected:
  MetricsTest() : transport_({kDiskBytes}) {
    PrimaryOptions options{.forwarder = {.group = "vm1",
                                         .heartbeat = absl::Milliseconds(20),
                                         .lost_peer = absl::Milliseconds(300),
                                         .backoff_min = absl::Milliseconds(5),
                                         .backoff_max = absl::Milliseconds(20)},
                           .volumes = {{.name = "vda", .size_bytes = kDiskBytes}}};
    auto state = AgentState::Open(base::FileSystem::Posix(), "");
    primary_ = *Primary::Create(options, base::FileSystem::Posix(), *std::move(state), &transport_);
    metrics_ = std::make_unique<Metrics>(primary_.get(), "standby:7410", absl::Seconds(5));
  }

  // By `name{label=value,...}`, labels in the order of the scrape. Of a histogram: its count.
  std::map<std::string, double> Scrape() const {
    std::map<std::string, double> samples;
    for (const prometheus::MetricFamily& family : metrics_->Collect()) {
      for (const prometheus::ClientMetric& metric : family.metric) {
        std::string labels;
        for (const auto& label : metric.label) {
          labels += (labels.empty() ? "" : ",") + label.name + "=" + label.value;
        }
        double value = metric.gauge.value;
        if (family.type == prometheus::MetricType::Counter) value = metric.counter.value;
        if (family.type == prometheus::MetricType::Histogram) {
          value = static_cast<double>(metric.histogram.sample_count);
        }
        samples[family.name + "{" + labels + "}"] = value;
      }
    }
    return samples;
  }
  Volume& Disk() { return *primary_->volumes()[0]; }

  FakeTransport transport_;
  std::unique_ptr<Primary> primary_;
  std::unique_ptr<Metrics> metrics_;
};

// A counter that first appears at 1 shows no increase, so its first event would not alert.
TEST_F(MetricsTest, EveryCombinationOfLabelsExistsAtZeroBeforeStart) {
  const auto samples = Scrape();
  const std::string volume = "group=vm1,volume=vda";
  const std::string with_peer = volume + ",peer=standby";
  for (const absl::string_view reason : base::kErrorReasonNames) {
    const std::string name =
        "understudy_replication_errors_total{" + with_peer + ",reason=" + std::string(reason) + "}";
    ASSERT_THAT(samples, Contains(Key(name)));
    EXPECT_EQ(samples.at(name), 0) << name;
  }
  for (const char* result : {"ok", "failed", "aborted"}) {
    EXPECT_EQ(
        samples.at(std::string("understudy_checkpoints_total{group=vm1,result=") + result + "}"),
        0);
  }
  for (const char* op : {"read", "write", "flush", "discard", "write_zeroes"}) {
    EXPECT_EQ(samples.at("understudy_io_requests_total{" + volume + ",op=" + op + "}"), 0);
    for (const char* where : {"local", "remote"}) {
      EXPECT_EQ(samples.at("understudy_io_errors_total{" + volume + ",op=" + op +
                           ",where=" + where + "}"),
                0);
    }
  }
  EXPECT_EQ(samples.at("understudy_volume_state{" + volume + ",state=none}"), 1);
  EXPECT_EQ(samples.at("understudy_volume_state{" + volume + ",state=running}"), 0);
  EXPECT_EQ(samples.at("understudy_volume_role{" + volume + ",role=none}"), 1);
  EXPECT_EQ(samples.at("understudy_volume_sync_state{" + with_peer + ",state=assumed}"), 0);
  EXPECT_EQ(samples.at("understudy_replication_lag_target_seconds{" + volume + "}"), 5);
  EXPECT_EQ(samples.at("understudy_checkpoint_duration_seconds{phase=total}"), 0);
}

TEST_F(MetricsTest, ACheckpointAndItsWritesAreCounted) {
  ASSERT_TRUE(primary_->Start(false, Soon()).ok());
  ASSERT_TRUE(Disk().Write(0, std::string(8192, 'a'), false).ok());
  ASSERT_TRUE(Disk().WriteZeroes(8192, 4096, ZeroedSpace::kKept, false).ok());
  ASSERT_TRUE(primary_->Checkpoint(Soon()).ok());
  const auto samples = Scrape();
  const std::string volume = "group=vm1,volume=vda";
  const std::string with_peer = volume + ",peer=standby";
  EXPECT_EQ(samples.at("understudy_volume_state{" + volume + ",state=running}"), 1);
  EXPECT_EQ(samples.at("understudy_volume_role{" + volume + ",role=primary}"), 1);
  EXPECT_EQ(samples.at("understudy_volume_sync_state{" + with_peer + ",state=assumed}"), 1);
  EXPECT_EQ(samples.at("understudy_volume_epoch{" + volume + "}"), 2);
  EXPECT_EQ(samples.at("understudy_volume_term{" + volume + "}"), 3);
  EXPECT_EQ(samples.at("understudy_io_requests_total{" + volume + ",op=write}"), 1);
  EXPECT_EQ(samples.at("understudy_io_bytes_total{" + volume + ",op=write}"), 8192);
  EXPECT_EQ(samples.at("understudy_io_bytes_total{" + volume + ",op=write_zeroes}"), 4096);
  EXPECT_EQ(samples.at("understudy_replication_sent_bytes_total{" + with_peer + ",kind=write}"),
            8192);
  EXPECT_EQ(samples.at("understudy_replication_sent_bytes_total{" + with_peer + ",kind=zero}"),
            4096);
  EXPECT_EQ(samples.at("understudy_replication_connected{group=vm1,peer=standby}"), 1);
  EXPECT_EQ(samples.at("understudy_replication_sessions_total{group=vm1,peer=standby,result=ok}"),
            1);
  EXPECT_EQ(samples.at("understudy_checkpoints_total{group=vm1,result=ok}"), 1);
  EXPECT_EQ(samples.at("understudy_checkpoint_duration_seconds{phase=total}"), 1);
  EXPECT_GT(samples.at("understudy_checkpoint_last_success_timestamp_seconds{" + volume + "}"),
            absl::ToDoubleSeconds(absl::Now() - absl::Seconds(60) - absl::UnixEpoch()));
  EXPECT_EQ(Scrape().at("understudy_checkpoint_duration_seconds{phase=total}"), 1);  // cumulative
}

// The runbook's row of `protocol` says "upgrade", which helps nobody who has yet to declare the
// group.
TEST_F(MetricsTest, AGroupThatIsNotDeclaredYetIsAReasonOfItsOwn) {
  transport_.Set([](auto& b) {
    b.refuse =
        WithReason(absl::NotFoundError("group \"vm1\" is not open here"), kReasonUnknownGroup);
  });
  ASSERT_TRUE(primary_->Start(false, Soon()).ok());
  const std::string errors =
      "understudy_replication_errors_total{group=vm1,volume=vda,peer=standby,reason=";
  EXPECT_TRUE(Eventually([&] { return Scrape().at(errors + "not_declared}") > 0; }));
  EXPECT_EQ(Scrape().at(errors + "protocol}"), 0);
}

TEST_F(MetricsTest, SilenceAndTheAgeOfACheckpointAreThereWhileTheyMeanSomething) {
  const std::string silence =
      "understudy_replication_silence_seconds{group=vm1,volume=vda,peer=standby}";
  const std::string age = "understudy_checkpoint_age_seconds{group=vm1,volume=vda}";
  EXPECT_THAT(Scrape(), AllOf(Not(Contains(Key(silence))), Not(Contains(Key(age)))));
  ASSERT_TRUE(primary_->Start(false, Soon()).ok());
  EXPECT_THAT(Scrape(), AllOf(Contains(Key(silence)), Not(Contains(Key(age)))))
      << "counted from the start on, and no checkpoint yet";
  ASSERT_TRUE(primary_->Checkpoint(Soon()).ok());
  const double before = Scrape().at(age);
  absl::SleepFor(absl::Milliseconds(2));
  EXPECT_GT(Scrape().at(age), before);
  EXPECT_LT(Scrape().at(age), 60);
  ASSERT_TRUE(primary_->Stop(/*failover=*/false, Soon()).ok());
  EXPECT_THAT(Scrape(), AllOf(Not(Contains(Key(silence))), Not(Contains(Key(age)))));
}

TEST_F(MetricsTest, AHandoverShows) {
  ASSERT_TRUE(primary_->Start(false, Soon()).ok());
  ASSERT_TRUE(primary_->forwarder().WaitForAnswer(Soon()).connected);
  EXPECT_EQ(Scrape().at("understudy_replication_handed_over{group=vm1}"), 0);
  transport_.WantHandover();
  EXPECT_TRUE(Eventually(
      [&] { return Scrape().at("understudy_replication_handed_over{group=vm1}") == 1; }));
}

TEST_F(MetricsTest, ALostStandbyShowsAsLagThatGrows) {
  ASSERT_TRUE(primary_->Start(false, Soon()).ok());
  transport_.Set([](auto& b) { b.reachable = false; });
  transport_.Disconnect();
  ASSERT_TRUE(Eventually([&] { return !primary_->forwarder().state().connected; }));
  ASSERT_TRUE(Disk().Write(0, std::string(4096, 'a'), false).ok());
  const std::string with_peer = "{group=vm1,volume=vda,peer=standby";
  const double lag = Scrape().at("understudy_replication_lag_seconds" + with_peer + "}");
  EXPECT_GT(lag, 0);
  absl::SleepFor(absl::Milliseconds(2));
  const auto samples = Scrape();
  EXPECT_GT(samples.at("understudy_replication_lag_seconds" + with_peer + "}"), lag);
  EXPECT_EQ(samples.at("understudy_replication_lag_bytes" + with_peer + "}"), 4096);
  EXPECT_EQ(samples.at("understudy_volume_sync_state" + with_peer + ",state=disconnected}"), 1);
  EXPECT_EQ(samples.at("understudy_replication_connected{group=vm1,peer=standby}"), 0);
  EXPECT_EQ(samples.at("understudy_replication_errors_total" + with_peer + ",reason=unavailable}"),
            1);
  EXPECT_GT(samples.at("understudy_replication_inflight_bytes{group=vm1,peer=standby}"), 4096);
}

}  // namespace
}  // namespace understudy::client::metrics_test
