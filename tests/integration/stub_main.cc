// understudy_stub: what any generated stub can say to a daemon, as JSON, for tests in a language without gRPC. It knows no
// semantics and checks nothing, so that a test can send what understudyctl and the agent never would.
//
//     understudy_stub ADDR Replication     one call a line: Start {"group": "vm1"}
//     understudy_stub ADDR CsiAddons       likewise: PromoteVolume {"volume_id": "vm1"}
//     understudy_stub ADDR PrimaryWrites   one stream, a WriteRequest a line; the end of the input closes our half of it
//
// Every answer is a line {"answer": ...} of proto JSON; the end of a call or of the stream is a line {"end": ...} with code, message,
// reason and, as "volume", the current term that a FENCED carries.
#include <chrono>
#include <iostream>
#include <memory>
#include <string>
#include <thread>

#include <google/protobuf/message.h>
#include <google/protobuf/util/json_util.h>
#include <grpcpp/grpcpp.h>

#include "csi_addons/identity.grpc.pb.h"
#include "csi_addons/replication.grpc.pb.h"
#include "proto/status_codec.h"
#include "storage/base/reason.h"
#include "understudy/v1/primary_writes.grpc.pb.h"
#include "understudy/v1/replication.grpc.pb.h"

namespace understudy {
namespace {

using google::protobuf::Message;

constexpr std::chrono::seconds kPatience(120);

std::string ToJson(const Message& message) {
  google::protobuf::util::JsonPrintOptions options;
  options.always_print_primitive_fields = true;
  options.preserve_proto_field_names = true;
  std::string json;
  const auto printed = google::protobuf::util::MessageToJsonString(message, &json, options);
  return printed.ok() ? json : "null";
}

bool FromJson(const std::string& json, Message& message) {
  const auto parsed = google::protobuf::util::JsonStringToMessage(json, &message);
  if (!parsed.ok()) std::cerr << parsed.ToString() << ": " << json.substr(0, 200) << std::endl;
  return parsed.ok();
}

void PrintAnswer(const Message& message) {
  std::cout << "{\"answer\": " << ToJson(message) << "}" << std::endl;
}

void PrintEnd(const grpc::Status& status) {
  const absl::Status end = proto::FromGrpcStatus(status);
  Reason reason = ReasonOf(end).value_or(Reason());
  // The text goes through protobuf's printer, which escapes it.
  v1::ReplicationError line;
  line.set_code(absl::StatusCodeToString(end.code()));
  line.set_message(std::string(end.message()));
  line.set_reason(reason.reason);
  line.set_volume(reason.metadata["term"]);
  std::cout << "{\"end\": " << ToJson(line) << "}" << std::endl;
}

template <typename Stub, typename Request, typename Response>
using Method = grpc::Status (Stub::*)(grpc::ClientContext*, const Request&, Response*);

template <typename Stub, typename Request, typename Response>
bool Call(Stub& stub, Method<Stub, Request, Response> method, const std::string& json) {
  Request request;
  if (!FromJson(json, request)) return false;
  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() + kPatience);
  context.set_wait_for_ready(true);  // the daemon may have been restarted since the last call
  Response response;
  const grpc::Status status = (stub.*method)(&context, request, &response);
  if (status.ok()) PrintAnswer(response);
  PrintEnd(status);
  return true;
}

bool CallByName(v1::Replication::Stub& stub, const std::string& method, const std::string& json) {
  using Stub = v1::Replication::Stub;
  if (method == "Open") return Call(stub, &Stub::Open, json);
  if (method == "Start") return Call(stub, &Stub::Start, json);
  if (method == "Checkpoint") return Call(stub, &Stub::Checkpoint, json);
  if (method == "GetError") return Call(stub, &Stub::GetError, json);
  if (method == "ClearError") return Call(stub, &Stub::ClearError, json);
  if (method == "Stop") return Call(stub, &Stub::Stop, json);
  if (method == "GetStatus") return Call(stub, &Stub::GetStatus, json);
  if (method == "Remove") return Call(stub, &Stub::Remove, json);
  if (method == "Scrub") return Call(stub, &Stub::Scrub, json);
  if (method == "Clone") return Call(stub, &Stub::Clone, json);
  if (method == "RemoveClone") return Call(stub, &Stub::RemoveClone, json);
  std::cerr << "unknown method " << method << std::endl;
  return false;
}

bool CallByName(replication::Controller::Stub& stub, const std::string& method,
                const std::string& json) {
  using Stub = replication::Controller::Stub;
  if (method == "EnableVolumeReplication") return Call(stub, &Stub::EnableVolumeReplication, json);
  if (method == "DisableVolumeReplication") {
    return Call(stub, &Stub::DisableVolumeReplication, json);
  }
  if (method == "PromoteVolume") return Call(stub, &Stub::PromoteVolume, json);
  if (method == "DemoteVolume") return Call(stub, &Stub::DemoteVolume, json);
  if (method == "ResyncVolume") return Call(stub, &Stub::ResyncVolume, json);
  if (method == "GetVolumeReplicationInfo") {
    return Call(stub, &Stub::GetVolumeReplicationInfo, json);
  }
  if (method == "GetReplicationDestinationInfo") {
    return Call(stub, &Stub::GetReplicationDestinationInfo, json);
  }
  std::cerr << "unknown method " << method << std::endl;
  return false;
}

bool CallByName(identity::Identity::Stub& stub, const std::string& method,
                const std::string& json) {
  using Stub = identity::Identity::Stub;
  if (method == "GetIdentity") return Call(stub, &Stub::GetIdentity, json);
  if (method == "GetCapabilities") return Call(stub, &Stub::GetCapabilities, json);
  if (method == "Probe") return Call(stub, &Stub::Probe, json);
  std::cerr << "unknown method " << method << std::endl;
  return false;
}

template <typename Stub>
int Calls(Stub& stub) {
  std::string line;
  while (std::getline(std::cin, line)) {
    const size_t space = line.find(' ');
    if (space == std::string::npos) return 2;
    if (!CallByName(stub, line.substr(0, space), line.substr(space + 1))) return 2;
  }
  return 0;
}

int Write(v1::PrimaryWrites::Stub& stub) {
  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() + kPatience);
  const auto stream = stub.Write(&context);
  std::thread reader([&] {
    v1::WriteResponse response;
    while (stream->Read(&response)) PrintAnswer(response);
    PrintEnd(stream->Finish());
  });
  std::string line;
  bool parsed = true;
  while (parsed && std::getline(std::cin, line)) {
    v1::WriteRequest request;
    parsed = FromJson(line, request);
    if (parsed) stream->Write(request);  // false: the stream has ended, the reader says how
  }
  stream->WritesDone();
  reader.join();
  return parsed ? 0 : 2;
}

int Main(int argc, char** argv) {
  const std::string service = argc == 3 ? argv[2] : "";
  grpc::ChannelArguments arguments;
  arguments.SetMaxSendMessageSize(-1);  // what is too large is for the daemon to say
  arguments.SetInt(GRPC_ARG_INITIAL_RECONNECT_BACKOFF_MS, 100);
  arguments.SetInt(GRPC_ARG_MAX_RECONNECT_BACKOFF_MS, 100);
  const auto channel = grpc::CreateCustomChannel(argc > 1 ? argv[1] : "",
                                                 grpc::InsecureChannelCredentials(), arguments);
  if (service == "Replication") return Calls(*v1::Replication::NewStub(channel));
  if (service == "CsiAddons") return Calls(*replication::Controller::NewStub(channel));
  if (service == "CsiIdentity") return Calls(*identity::Identity::NewStub(channel));
  if (service == "PrimaryWrites") return Write(*v1::PrimaryWrites::NewStub(channel));
  std::cerr << "usage: understudy_stub ADDR Replication|CsiAddons|CsiIdentity|PrimaryWrites"
            << std::endl;
  return 2;
}

}  // namespace
}  // namespace understudy

int main(int argc, char** argv) { return understudy::Main(argc, argv); }
