#include "server/metrics.h"

#include <string>

#include "absl/strings/str_cat.h"
#include <gtest/gtest.h>
#include <prometheus/text_serializer.h>

#include "tests/server/harness.h"

namespace understudy::server::metrics_test {
namespace {

using testing::Harness;
using testing::TestAgent;
using testing::TestFrame;
using testing::WriteStartOf;

std::string Scrape(const Service& service) {
  return prometheus::TextSerializer().Serialize(Metrics(service).Collect());
}

bool Has(const std::string& scrape, const std::string& line) {
  return scrape.find("\n" + line + "\n") != std::string::npos;
}

TEST(MetricsTest, EverySeriesOfAGroupIsThereFromOpenOn) {
  Harness harness;
  const std::string scrape = Scrape(harness.service);
  for (const absl::string_view reason : base::kErrorReasonNames) {
    EXPECT_TRUE(Has(
        scrape,
        "understudy_replication_errors_total{group=\"vm1\",volume=\"disk0\",peer=\"\",reason=\"" +
            std::string(reason) + "\"} 0"))
        << reason;
  }
  for (const char* const line : {
           "understudy_volume_state{group=\"vm1\",volume=\"disk0\",state=\"none\"} 1",
           "understudy_volume_state{group=\"vm1\",volume=\"disk0\",state=\"failover_failed\"} 0",
           "understudy_volume_role{group=\"vm1\",volume=\"disk0\",role=\"none\"} 1",
           "understudy_volume_size_bytes{group=\"vm1\",volume=\"disk0\"} 1048576",
           "understudy_checksum_failures_total{group=\"vm1\",volume=\"disk0\",where=\"wire\"} 0",
           "understudy_checksum_failures_total{group=\"vm1\",volume=\"\",where=\"wire\"} 0",
           "understudy_fenced_requests_total{group=\"vm1\",volume=\"disk0\"} 0",
           "understudy_checksum_failures_total{group=\"vm1\",volume=\"disk0\",where=\"disk\"} 0",
           "understudy_failovers_total{group=\"vm1\",result=\"ok\"} 0",
           "understudy_checkpoints_total{group=\"vm1\",result=\"aborted\"} 0",
           "understudy_scrub_errors_total{group=\"vm1\"} 0",
           "understudy_scrub_last_clean_timestamp_seconds{group=\"vm1\"} 0",
           "understudy_scrub_last_damage_timestamp_seconds{group=\"vm1\"} 0",
           "understudy_replication_connected{group=\"vm1\",peer=\"\"} 0",
           "understudy_replication_handed_over{group=\"vm1\"} 0",
           "understudy_overlay_bytes{group=\"vm1\",volume=\"disk0\",overlay=\"history\"} 0",
           "understudy_overlay_used_bytes{group=\"vm1\"} 0",
           "understudy_overlay_limit_bytes{group=\"vm1\"} 0",
           "understudy_overlay_soft_mark{group=\"vm1\"} 0",
           "understudy_history_epochs{group=\"vm1\"} 0",
           "understudy_clones{group=\"vm1\"} 0",
           "understudy_clone_written_bytes{group=\"vm1\"} 0",
           "understudy_clone_io_errors_total{group=\"vm1\",op=\"write\"} 0",
           "understudy_store_capacity_bytes 1000",
           "understudy_store_free_bytes 400",
           "understudy_store_extent_memory_bytes 30",
           "understudy_store_extent_memory_limit_bytes 50",
           "understudy_store_extent_cold_reads_total 6",
       }) {
    EXPECT_TRUE(Has(scrape, line)) << line;
  }
}

// Who was never there raises no alert.
TEST(MetricsTest, SilenceIsTheOneOfAnAgentThatHasCalled) {
  Harness harness;
  harness.Start();
  const std::string silence = "understudy_replication_silence_seconds{group=\"vm1\"";
  EXPECT_EQ(Scrape(harness.service).find(silence), std::string::npos);
  {
    TestAgent agent(harness.service);
    ASSERT_TRUE(agent.Greet(TestAgent::Hello("vm1")));
  }
  EXPECT_NE(Scrape(harness.service).find(silence), std::string::npos);
}

TEST(MetricsTest, TheSeriesSayWhatHappened) {
  Harness harness;
  harness.Start();
  TestAgent agent(harness.service);
  ASSERT_TRUE(agent.Greet(TestAgent::Hello("vm1")));
  agent.Send(TestFrame().Data(0, std::string(1024, 'x')).Add(OperationKind::kCheckpoint));
  ASSERT_TRUE(agent.sink.AckThat([](const Ack& ack) { return ack.committed_sequence == 2; }));
  agent.SendRaw(testing::EncodeHeartbeat(false, 7));  // taken after the frame was counted
  ASSERT_TRUE(agent.sink.AckThat([](const Ack& ack) { return ack.echo_micros == 7; }));
  ASSERT_TRUE(harness.group->CreateClone({.name = "drill"}, {}).ok());
  const auto clone = harness.service.FindExport("vm1@drill/disk0").value();
  ASSERT_TRUE(WriteStartOf(*clone, std::string(2048, 'c')).ok());
  harness.replica().Mutate([](storage::ReplicaState& state) {
    state.usage[0].hidden_bytes = 12;
    state.usage[0].history_bytes = 34;
    state.history_epochs = 5;
    state.overlay_bytes = 900;
    state.overlay_bytes_max = 1000;
    state.overlay_soft_mark = true;
    state.handed_over = true;
    state.scrub = {.last_clean = absl::FromUnixSeconds(7000),
                   .last_damage = absl::FromUnixSeconds(5000),
                   .damages_total = 3};
  });
  const std::string scrape = Scrape(harness.service);
  for (const char* const line : {
           "understudy_volume_state{group=\"vm1\",volume=\"disk0\",state=\"running\"} 1",
           "understudy_volume_sync_state{group=\"vm1\",volume=\"disk0\",peer=\"agent-1\",state="
           "\"assumed\"} 1",
           "understudy_volume_role{group=\"vm1\",volume=\"disk0\",role=\"secondary\"} 1",
           "understudy_replication_connected{group=\"vm1\",peer=\"agent-1\"} 1",
           "understudy_replication_sessions_total{group=\"vm1\",peer=\"agent-1\",result=\"ok\"} 1",
           "understudy_replication_received_bytes_total{group=\"vm1\"} 1024",
           "understudy_replication_received_operations_total{group=\"vm1\"} 2",
           "understudy_overlay_bytes{group=\"vm1\",volume=\"disk0\",overlay=\"hidden\"} 12",
           "understudy_overlay_bytes{group=\"vm1\",volume=\"disk0\",overlay=\"history\"} 34",
           "understudy_history_epochs{group=\"vm1\"} 5",
           "understudy_overlay_used_bytes{group=\"vm1\"} 900",
           "understudy_overlay_limit_bytes{group=\"vm1\"} 1000",
           "understudy_overlay_soft_mark{group=\"vm1\"} 1",
           "understudy_replication_handed_over{group=\"vm1\"} 1",
           "understudy_scrub_errors_total{group=\"vm1\"} 3",
           "understudy_scrub_last_clean_timestamp_seconds{group=\"vm1\"} 7000",
           "understudy_scrub_last_damage_timestamp_seconds{group=\"vm1\"} 5000",
           "understudy_clones{group=\"vm1\"} 1",
           "understudy_clone_written_bytes{group=\"vm1\"} 2048",
           "understudy_clone_io_requests_total{group=\"vm1\",op=\"write\"} 1",
           "understudy_clone_io_bytes_total{group=\"vm1\",op=\"write\"} 2048",
           "understudy_io_requests_total{group=\"vm1\",volume=\"disk0\",op=\"write\"} 0",
           "understudy_checkpoints_total{group=\"vm1\",result=\"ok\"} 1",
           "understudy_checkpoint_duration_seconds_bucket{phase=\"commit\",le=\"0.001\"} 0",
           "understudy_checkpoint_duration_seconds_bucket{phase=\"commit\",le=\"0.002\"} 1",
           "understudy_checkpoint_duration_seconds_count{phase=\"commit\"} 1",
           "understudy_volume_epoch{group=\"vm1\",volume=\"disk0\"} 2",
       }) {
    EXPECT_TRUE(Has(scrape, line)) << line << "\n" << scrape;
  }
}

TEST(MetricsTest, DamageThatAScrubFoundBeforeARestartIsToldUntilACleanOne) {
  Harness harness;
  harness.Start();
  const std::string line = "understudy_scrub_last_damage_timestamp_seconds{group=\"vm1\"} ";
  harness.group->Latch(VolumeId(0), "scrub", {}, absl::ResourceExhaustedError("no memory"));
  EXPECT_TRUE(Has(Scrape(harness.service), line + "0"));
  harness.group->Latch(VolumeId(0), "scrub", {0, 512}, absl::DataLossError("checksum mismatch"));
  EXPECT_FALSE(Has(Scrape(harness.service), line + "0"));
}

// Or a sum over the volumes would count one failure several times.
TEST(MetricsTest, AFailureIsCountedOnceWhateverTheGroupHolds) {
  testing::FakeStore store;
  Service service(store, base::Clock::Real());
  storage::GroupSpec spec = testing::OneVolume("vm1");
  spec.volumes.push_back(spec.volumes[0]);
  spec.volumes[1].name = "disk1";
  spec.volumes[1].top_id = "vm1/disk1";
  const auto group = service.Open(Mode::kSecondary, spec, testing::Soon())->group;
  ASSERT_TRUE(group->Start(true, {}, testing::Soon()).ok());
  group->OnWriteRefused(1, absl::ResourceExhaustedError("full"));
  store.replicas["vm1"]->Report({.operation = "apply",
                                 .volume = VolumeId(1),
                                 .range = {0, 4096},
                                 .status = absl::InternalError("dead disk")});
  const std::string scrape = Scrape(service);
  const auto errors = [](const char* volume, const char* reason, int count) {
    return absl::StrCat("understudy_replication_errors_total{group=\"vm1\",volume=\"", volume,
                        "\",peer=\"\",reason=\"", reason, "\"} ", count);
  };
  EXPECT_TRUE(Has(scrape, errors("", "no_space", 1))) << scrape;
  EXPECT_TRUE(Has(scrape, errors("disk0", "no_space", 0)));
  EXPECT_TRUE(Has(scrape, errors("disk1", "no_space", 0)));
  EXPECT_TRUE(Has(scrape, errors("disk1", "io", 1)));
  EXPECT_TRUE(Has(scrape, errors("disk0", "io", 0)));
  EXPECT_TRUE(Has(scrape, errors("", "io", 0)));
}

TEST(MetricsTest, SeriesGoWithTheirGroup) {
  Harness harness;
  EXPECT_NE(Scrape(harness.service).find("vm1"), std::string::npos);
  ASSERT_TRUE(harness.service.Remove("vm1", false, {}, testing::Soon()).ok());
  EXPECT_EQ(Scrape(harness.service).find("vm1"), std::string::npos);
}

}  // namespace
}  // namespace understudy::server::metrics_test
