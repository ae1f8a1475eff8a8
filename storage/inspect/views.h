// storage/inspect/views.h
//
// What understudy-inspect prints: a text for people, or one JSON object. Sizes are bytes.
#ifndef UNDERSTUDY_STORAGE_INSPECT_VIEWS_H_
#define UNDERSTUDY_STORAGE_INSPECT_VIEWS_H_

#include <string>

namespace understudy::storage {

struct InspectOptions;
struct InspectReport;

std::string TextView(const InspectOptions& options, const InspectReport& report);
std::string JsonView(const InspectOptions& options, const InspectReport& report);

}  // namespace understudy::storage

#endif  // UNDERSTUDY_STORAGE_INSPECT_VIEWS_H_
