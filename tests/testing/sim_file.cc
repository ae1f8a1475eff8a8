#include "tests/testing/sim_file.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "storage/base/log.h"

namespace understudy::testing {

// ---- contents ----------------------------------------------------------------------------------------------------------------

uint64_t SimContents::MissingPages(ByteRange range) const {
  uint64_t missing = 0;
  for (uint64_t at = RoundDown(range.start, kSimPageBytes); at < range.end; at += kSimPageBytes) {
    if (!pages_->contains(at / kSimPageBytes)) ++missing;
  }
  return missing;
}

SimContents::Pages& SimContents::MutablePages() {
  if (pages_.use_count() > 1) pages_ = std::make_shared<Pages>(*pages_);
  return *pages_;
}

SimContents::Page& SimContents::MutablePage(uint64_t index) {
  std::shared_ptr<Page>& page = MutablePages()[index];
  if (page == nullptr) {
    page = std::make_shared<Page>();  // zeroes
  } else if (page.use_count() > 1) {
    page = std::make_shared<Page>(*page);
  }
  return *page;
}

void SimContents::Read(uint64_t offset, std::span<char> out) const {
  while (!out.empty()) {
    const uint64_t in_page = offset % kSimPageBytes;
    const uint64_t bytes = std::min<uint64_t>(out.size(), kSimPageBytes - in_page);
    const auto page = pages_->find(offset / kSimPageBytes);
    if (page == pages_->end()) {
      std::memset(out.data(), 0, bytes);
    } else {
      std::memcpy(out.data(), page->second->data() + in_page, bytes);
    }
    offset += bytes;
    out = out.subspan(bytes);
  }
}

void SimContents::Write(uint64_t offset, absl::string_view data) {
  size_ = std::max<uint64_t>(size_, offset + data.size());
  while (!data.empty()) {
    const uint64_t in_page = offset % kSimPageBytes;
    const uint64_t bytes = std::min<uint64_t>(data.size(), kSimPageBytes - in_page);
    std::memcpy(MutablePage(offset / kSimPageBytes).data() + in_page, data.data(), bytes);
    offset += bytes;
    data.remove_prefix(bytes);
  }
}

void SimContents::Zero(ByteRange range) {
  while (!range.empty()) {
    const uint64_t index = range.start / kSimPageBytes;
    const uint64_t in_page = range.start % kSimPageBytes;
    const uint64_t bytes = std::min(range.size(), kSimPageBytes - in_page);
    if (bytes == kSimPageBytes) {
      MutablePages().erase(index);
    } else if (pages_->contains(index)) {
      std::memset(MutablePage(index).data() + in_page, 0, bytes);
    }
    range.start += bytes;
  }
}

void SimContents::Resize(uint64_t size) {
  if (size < size_) Zero({size, RoundUp(size_, kSimPageBytes)});
  size_ = size;
}

ByteRange SimContents::NextData(uint64_t offset) const {
  auto page = pages_->lower_bound(offset / kSimPageBytes);
  if (page == pages_->end() || offset >= size_) return {size_, size_};
  const uint64_t start = std::max(offset, page->first * kSimPageBytes);
  uint64_t end = page->first + 1;
  for (++page; page != pages_->end() && page->first == end; ++page) ++end;
  return {start, std::min(size_, end * kSimPageBytes)};
}

void SimContents::CopyPages(const SimContents& other, ByteRange range) {
  const uint64_t first = range.start / kSimPageBytes;
  const uint64_t last = RoundUp(range.end, kSimPageBytes) / kSimPageBytes;
  Pages& pages = MutablePages();
  pages.erase(pages.lower_bound(first), pages.lower_bound(last));
  pages.insert(other.pages_->lower_bound(first), other.pages_->lower_bound(last));
}

// ---- file ----------------------------------------------------------------------------------------------------------------------

void SimFile::Apply(const Change& change, SimContents* contents) {
  switch (change.kind) {
    case Kind::kWrite:
    case Kind::kClone:
      return contents->Write(change.range.start, *change.data);
    case Kind::kHole:
      return contents->Zero(change.range.Intersect({0, contents->size()}));
    case Kind::kTruncate:
      return contents->Resize(change.range.start);
  }
}

void SimFile::Write(uint64_t offset, std::string data) {
  changes_.push_back({.kind = Kind::kWrite,
                      .range = ByteRange::OfLength(offset, data.size()),
                      .data = std::make_shared<const std::string>(std::move(data))});
  Apply(changes_.back(), &cached_);
}

void SimFile::PunchHole(ByteRange range) {
  changes_.push_back({.kind = Kind::kHole, .range = range, .data = nullptr});
  Apply(changes_.back(), &cached_);
}

void SimFile::Truncate(uint64_t size) {
  changes_.push_back(
      {.kind = Kind::kTruncate, .range = {size, std::max(size, cached_.size())}, .data = nullptr});
  Apply(changes_.back(), &cached_);
}

void SimFile::CloneFrom(const SimFile& source, uint64_t source_number, uint64_t source_offset,
                        ByteRange range) {
  UNDERSTUDY_CHECK(source.unbacked_.empty());
  std::string data(range.size(), '\0');
  std::string medium = data;
  source.cached_.Read(source_offset, data);
  source.durable_.Read(source_offset, medium);
  UnbackedSectors unbacked;
  for (uint64_t at = 0; at < range.size(); at += kSectorBytes) {
    if (data.compare(at, kSectorBytes, medium, at, kSectorBytes) == 0) continue;
    unbacked[range.start + at] = {.source = source_number,
                                  .found = medium.substr(at, kSectorBytes)};
  }
  changes_.push_back({.kind = Kind::kClone,
                      .range = range,
                      .data = std::make_shared<const std::string>(std::move(data)),
                      .unbacked = std::move(unbacked)});
  Apply(changes_.back(), &cached_);
}

void SimFile::SourceSynced(uint64_t source_number, bool ok) {
  const auto tell = [&](UnbackedSectors& sectors) {
    for (auto it = sectors.begin(); it != sectors.end();) {
      const bool its = it->second.source == source_number;
      if (its) it->second.source = std::nullopt;
      it = its && ok ? sectors.erase(it) : std::next(it);
    }
  };
  tell(unbacked_);
  for (Change& change : changes_) tell(change.unbacked);
}

void SimFile::Sync() {
  // Not Resize(): what a truncation took away is among the ranges below.
  for (const Change& change : changes_) durable_.CopyPages(cached_, change.range);
  durable_.Resize(cached_.size());
  for (const Change& change : changes_) Reached(change, change.range);
  changes_.clear();
}

void SimFile::Reached(const Change& change, ByteRange part) {
  unbacked_.erase(unbacked_.lower_bound(RoundDown(part.start, kSectorBytes)),
                  unbacked_.lower_bound(part.end));
  unbacked_.insert(change.unbacked.lower_bound(part.start), change.unbacked.lower_bound(part.end));
}

void SimFile::Tear(const Change& change, Random& random) {
  const uint64_t size_before = durable_.size();
  const uint64_t unit = change.kind == Kind::kClone ? kSimPageBytes : kSectorBytes;
  uint64_t kept_end = 0;
  for (ByteRange rest = change.range; !rest.empty();) {
    const uint64_t end = std::min(rest.end, RoundDown(rest.start, unit) + unit);
    if (random() % 2 == 0) {
      if (change.kind == Kind::kHole) {
        durable_.Zero(ByteRange{rest.start, end}.Intersect({0, size_before}));
      } else {
        durable_.Write(rest.start, absl::string_view(*change.data)
                                       .substr(rest.start - change.range.start, end - rest.start));
      }
      Reached(change, {rest.start, end});
      kept_end = end;
    }
    rest.start = end;
  }
  if (change.kind == Kind::kHole) return;
  // The new length may be there without all of its bytes, which then read as zeroes.
  const bool grown = random() % 2 == 0;
  durable_.Resize(std::max({size_before, kept_end, grown ? change.range.end : 0}));
}

void SimFile::ResolveChanges(Random& random) {
  // Of this file: everything, nothing, or some of everything.
  const uint64_t style = random() % 4;
  for (const Change& change : changes_) {
    const uint64_t choice = style == 0 ? 0 : style == 1 ? 1 : random() % 3;
    if (choice == 1) continue;
    if (choice == 0 || change.kind == Kind::kTruncate) {
      Apply(change, &durable_);
      Reached(change, change.range);
    } else {
      Tear(change, random);
    }
  }
  changes_.clear();
}

void SimFile::FailSync(Random& random) {
  ResolveChanges(random);
  if (random() % 2 == 0)
    cached_ = durable_;  // the pages were dropped, else they stay, marked clean
}

void SimFile::CutPower(Random& random) {
  ResolveChanges(random);
  for (const auto& [offset, sector] : unbacked_) {
    if (random() % 2 == 0) durable_.Write(offset, sector.found);
  }
  unbacked_.clear();
  cached_ = durable_;
}

}  // namespace understudy::testing
