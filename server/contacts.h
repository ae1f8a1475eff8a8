// server/contacts.h
//
// When the agent of each group was last heard of, kept over a restart of the service in one small
// file, `contacts` in the data directory:
//
//     understudy contacts 1
//     INCARNATION UNIX-MICROS     one line for each group that an agent has called since its Start
//     crc32c HEX                  of everything before this line
//
// It is replaced atomically every minute in which somebody was heard, and at the end: after a crash
// it is a minute old at most. Damage is logged and read as "nothing is known".
#ifndef UNDERSTUDY_SERVER_CONTACTS_H_
#define UNDERSTUDY_SERVER_CONTACTS_H_

#include <map>
#include <string>

#include "absl/status/status.h"
#include "absl/time/time.h"

#include "storage/base/file_system.h"
#include "storage/base/ids.h"

namespace understudy::server {

using Contacts = std::map<Incarnation, absl::Time>;

// Nothing when there is no such file, or it is damaged.
Contacts LoadContacts(base::FileSystem& file_system, const std::string& path);
// Durable when it returns.
absl::Status StoreContacts(base::FileSystem& file_system, const std::string& path,
                           const Contacts& contacts);

}  // namespace understudy::server

#endif  // UNDERSTUDY_SERVER_CONTACTS_H_
