// The part of `disk.rs` that RocksDB calls: its own FaultInjectionTestFS, which keeps in memory what was written to a file and
// not synced, and around it what that one does not do: entries of directories that were not synced are noted, so that they can
// be undone; a full disk, syncs that fail, syncs that hang.
//
// Compiled with the headers and definitions that RocksDB itself is compiled with (`build.rs`).

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <condition_variable>
#include <cstdlib>
#include <mutex>
#include <set>
#include <string>
#include <vector>

#include "rocksdb/env.h"
#include "rocksdb/file_system.h"
#include "utilities/fault_injection_fs.h"

// As in RocksDB's `db/c.cc`, which frees it.
struct rocksdb_env_t {
  ROCKSDB_NAMESPACE::Env* rep;
  bool is_default;
};

namespace {

using namespace ROCKSDB_NAMESPACE;

// In the order of `Fault` in `disk.rs`.
enum class Fault : unsigned { kFull, kSyncFails, kSyncHangs };
constexpr unsigned kFaults = 3;

// Counted in the order of `DiskCount` in `disk.rs`.
enum class Count : unsigned { kSyncs, kDirectorySyncs, kRefused, kHanging, kEntriesUnsynced };

std::string DirectoryOf(const std::string& path) {
  const size_t slash = path.find_last_of('/');
  std::string directory = slash == std::string::npos ? "" : path.substr(0, slash);
  while (!directory.empty() && directory.back() == '/') {
    directory.pop_back();
  }
  return directory;
}

// What is given to the operating system survives the end of a process; so nothing below needs to wait for the real disk.
class UnsyncedFile final : public FSWritableFileOwnerWrapper {
 public:
  using FSWritableFileOwnerWrapper::FSWritableFileOwnerWrapper;
  IOStatus Sync(const IOOptions&, IODebugContext*) override { return IOStatus::OK(); }
  IOStatus Fsync(const IOOptions&, IODebugContext*) override { return IOStatus::OK(); }
};

class UnsyncedFiles final : public FileSystemWrapper {
 public:
  UnsyncedFiles() : FileSystemWrapper(FileSystem::Default()) {}
  const char* Name() const override { return "UnsyncedFiles"; }
  IOStatus NewWritableFile(const std::string& name, const FileOptions& options,
                           std::unique_ptr<FSWritableFile>* result,
                           IODebugContext* debug) override {
    return Wrapped(target()->NewWritableFile(name, options, result, debug), result);
  }
  IOStatus ReopenWritableFile(const std::string& name, const FileOptions& options,
                              std::unique_ptr<FSWritableFile>* result,
                              IODebugContext* debug) override {
    return Wrapped(target()->ReopenWritableFile(name, options, result, debug), result);
  }

 private:
  static IOStatus Wrapped(IOStatus status, std::unique_ptr<FSWritableFile>* result) {
    if (status.ok()) {
      result->reset(new UnsyncedFile(std::move(*result)));
    }
    return status;
  }
};

class Disk final : public FaultInjectionTestFS {
 public:
  // `folder` holds the journal of unsynced entries and second links to what they removed.
  explicit Disk(std::string folder)
      : FaultInjectionTestFS(std::make_shared<UnsyncedFiles>()), folder_(std::move(folder)) {
    journal_ = open((folder_ + "/journal").c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
    if (journal_ < 0) {
      std::abort();
    }
    SetInjectUnsyncedDataLoss(true);
    SetAllowLinkOpenFile(true);
  }

  ~Disk() override { close(journal_); }

  IOStatus NewWritableFile(const std::string& name, const FileOptions& options,
                           std::unique_ptr<FSWritableFile>* result,
                           IODebugContext* debug) override;
  IOStatus ReopenWritableFile(const std::string& name, const FileOptions& options,
                              std::unique_ptr<FSWritableFile>* result,
                              IODebugContext* debug) override;
  IOStatus NewDirectory(const std::string& name, const IOOptions& options,
                        std::unique_ptr<FSDirectory>* result, IODebugContext* debug) override;
  IOStatus DeleteFile(const std::string& name, const IOOptions& options,
                      IODebugContext* debug) override;
  IOStatus RenameFile(const std::string& from, const std::string& to, const IOOptions& options,
                      IODebugContext* debug) override;
  IOStatus LinkFile(const std::string& from, const std::string& to, const IOOptions& options,
                    IODebugContext* debug) override;

  // Whether bytes may be added.
  IOStatus CheckSpace() {
    std::lock_guard<std::mutex> lock(mutex_);
    if (!faults_[static_cast<unsigned>(Fault::kFull)]) {
      return IOStatus::OK();
    }
    ++counts_[static_cast<unsigned>(Count::kRefused)];
    IOStatus full = IOStatus::NoSpace("No space left on device");
    full.SetRetryable(true);
    return full;
  }

  // Whether a sync may go on; not before it stops hanging.
  IOStatus CheckSync(Count counted) {
    std::unique_lock<std::mutex> lock(mutex_);
    unsigned long& hanging = counts_[static_cast<unsigned>(Count::kHanging)];
    ++hanging;
    changed_.wait(lock, [this] { return !faults_[static_cast<unsigned>(Fault::kSyncHangs)]; });
    --hanging;
    if (faults_[static_cast<unsigned>(Fault::kSyncFails)]) {
      ++counts_[static_cast<unsigned>(Count::kRefused)];
      return IOStatus::IOError("While fsync", "Input/output error");
    }
    ++counts_[static_cast<unsigned>(counted)];
    return IOStatus::OK();
  }

  // The entries that a directory has now are durable, if there is power.
  bool EntriesSynced(const std::string& directory) {
    std::lock_guard<std::mutex> lock(mutex_);
    if (off_) {
      return false;
    }
    std::vector<Entry> left;
    for (Entry& entry : entries_) {
      if (entry.directory != directory) {
        left.push_back(std::move(entry));
      } else if (!entry.backup.empty()) {
        unlink(entry.backup.c_str());
      }
    }
    entries_ = std::move(left);
    if (ftruncate(journal_, 0) != 0) {
      std::abort();
    }
    for (const Entry& entry : entries_) {
      Write(entry.line);
    }
    return true;
  }

  // From now on nothing reaches a file. What was not synced is left in the folder, for whoever wants some of it to survive.
  void PowerOff() {
    SetFilesystemActive(false, IOStatus::IOError("the power is off"));
    Set(static_cast<unsigned>(Fault::kSyncHangs), false);
    std::lock_guard<std::mutex> lock(mutex_);
    off_ = true;
    for (const std::string& name : written_) {
      int64_t synced = -1;
      std::string scratch(1 << 20, 0);
      Slice found;
      ReadUnsynced(name, 0, 0, &found, scratch.data(), &synced);
      if (synced < 0) {
        continue;
      }
      for (;;) {
        int64_t position = -1;
        ReadUnsynced(name, static_cast<uint64_t>(synced), scratch.size(), &found, scratch.data(),
                     &position);
        if (found.size() < scratch.size()) {
          break;
        }
        scratch.resize(2 * scratch.size());
      }
      if (found.empty()) {
        continue;
      }
      const std::string tail = folder_ + "/tail" + std::to_string(++numbers_);
      const int file = open(tail.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
      if (file < 0 || write(file, found.data(), found.size()) != static_cast<ssize_t>(found.size())) {
        std::abort();
      }
      close(file);
      Write("tail\t" + name + "\t" + std::to_string(synced) + "\t" + tail + "\n");
    }
  }

  void Set(unsigned fault, bool on) {
    if (fault >= kFaults) {
      std::abort();
    }
    {
      std::lock_guard<std::mutex> lock(mutex_);
      faults_[fault] = on;
    }
    changed_.notify_all();
  }

  unsigned long Counted(Count count) {
    std::lock_guard<std::mutex> lock(mutex_);
    return count == Count::kEntriesUnsynced ? entries_.size()
                                            : counts_[static_cast<unsigned>(count)];
  }

 private:
  // A change of a directory that was not synced since.
  struct Entry {
    std::string directory;
    std::string line;
    std::string backup;
  };

  void Write(const std::string& line) {
    if (write(journal_, line.data(), line.size()) != static_cast<ssize_t>(line.size())) {
      std::abort();
    }
  }

  // Directories that RocksDB never opens it never syncs: files there are not its own.
  void Note(const std::string& path, std::string line, std::string backup) {
    std::lock_guard<std::mutex> lock(mutex_);
    std::string directory = DirectoryOf(path);
    if (off_ || directories_.count(directory) == 0) {
      if (!off_ && !backup.empty()) {
        unlink(backup.c_str());
      }
      return;
    }
    Write(line);
    entries_.push_back(Entry{std::move(directory), std::move(line), std::move(backup)});
  }

  void Written(const std::string& name) {
    std::lock_guard<std::mutex> lock(mutex_);
    written_.insert(name);
  }

  bool Exists(const std::string& name) {
    return target()->FileExists(name, IOOptions(), nullptr).ok();
  }

  // A second link to a file that is about to lose its name; empty if there is none.
  std::string Backup(const std::string& name) {
    std::string backup;
    {
      std::lock_guard<std::mutex> lock(mutex_);
      backup = folder_ + "/backup" + std::to_string(++numbers_);
    }
    return link(name.c_str(), backup.c_str()) == 0 ? backup : std::string();
  }

  const std::string folder_;
  int journal_;
  std::mutex mutex_;
  std::condition_variable changed_;
  // All below needs the mutex.
  bool off_ = false;
  std::set<std::string> directories_;
  std::vector<Entry> entries_;
  std::set<std::string> written_;
  unsigned long numbers_ = 0;
  bool faults_[kFaults] = {};
  unsigned long counts_[4] = {};
};

class DiskFile final : public FSWritableFileOwnerWrapper {
 public:
  DiskFile(Disk* disk, std::unique_ptr<FSWritableFile>&& file)
      : FSWritableFileOwnerWrapper(std::move(file)), disk_(disk) {}

  IOStatus Append(const Slice& data, const IOOptions& options, IODebugContext* debug) override {
    IOStatus space = disk_->CheckSpace();
    return space.ok() ? FSWritableFileOwnerWrapper::Append(data, options, debug) : space;
  }
  IOStatus Append(const Slice& data, const IOOptions& options,
                  const DataVerificationInfo& verification, IODebugContext* debug) override {
    IOStatus space = disk_->CheckSpace();
    return space.ok() ? FSWritableFileOwnerWrapper::Append(data, options, verification, debug)
                      : space;
  }
  IOStatus Sync(const IOOptions& options, IODebugContext* debug) override {
    IOStatus may = disk_->CheckSync(Count::kSyncs);
    return may.ok() ? FSWritableFileOwnerWrapper::Sync(options, debug) : may;
  }
  // FaultInjectionTestFS has no Fsync of its own: the base class of files makes it a Sync.
  IOStatus Fsync(const IOOptions& options, IODebugContext* debug) override {
    return Sync(options, debug);
  }
  // Starts writing on a real disk, and promises nothing; FaultInjectionTestFS would take it for a sync.
  IOStatus RangeSync(uint64_t, uint64_t, const IOOptions&, IODebugContext*) override {
    return IOStatus::OK();
  }

 private:
  Disk* const disk_;
};

class DiskDirectory final : public FSDirectory {
 public:
  DiskDirectory(Disk* disk, std::string name, std::unique_ptr<FSDirectory>&& directory)
      : disk_(disk), name_(std::move(name)), directory_(std::move(directory)) {}

  IOStatus Fsync(const IOOptions&, IODebugContext*) override { return Synced(); }
  IOStatus FsyncWithDirOptions(const IOOptions&, IODebugContext*,
                               const DirFsyncOptions&) override {
    return Synced();
  }
  IOStatus Close(const IOOptions& options, IODebugContext* debug) override {
    return directory_->Close(options, debug);
  }

 private:
  IOStatus Synced() {
    if (!disk_->IsFilesystemActive()) {
      return disk_->GetError();
    }
    IOStatus may = disk_->CheckSync(Count::kDirectorySyncs);
    if (may.ok() && !disk_->EntriesSynced(name_)) {
      return disk_->GetError();
    }
    return may;
  }

  Disk* const disk_;
  const std::string name_;
  std::unique_ptr<FSDirectory> directory_;
};

IOStatus Disk::NewWritableFile(const std::string& name, const FileOptions& options,
                               std::unique_ptr<FSWritableFile>* result, IODebugContext* debug) {
  IOStatus status = CheckSpace();
  if (!status.ok()) {
    return status;
  }
  const bool existed = Exists(name);
  status = FaultInjectionTestFS::NewWritableFile(name, options, result, debug);
  if (status.ok()) {
    if (!existed) {
      Note(name, "create\t" + name + "\n", "");
    }
    Written(name);
    result->reset(new DiskFile(this, std::move(*result)));
  }
  return status;
}

IOStatus Disk::ReopenWritableFile(const std::string& name, const FileOptions& options,
                                  std::unique_ptr<FSWritableFile>* result, IODebugContext* debug) {
  const bool existed = Exists(name);
  IOStatus status = FaultInjectionTestFS::ReopenWritableFile(name, options, result, debug);
  if (status.ok()) {
    if (!existed) {
      Note(name, "create\t" + name + "\n", "");
    }
    Written(name);
    result->reset(new DiskFile(this, std::move(*result)));
  }
  return status;
}

IOStatus Disk::NewDirectory(const std::string& name, const IOOptions& options,
                            std::unique_ptr<FSDirectory>* result, IODebugContext* debug) {
  IOStatus status = FaultInjectionTestFS::NewDirectory(name, options, result, debug);
  if (status.ok()) {
    std::string directory = DirectoryOf(name + "/");
    {
      std::lock_guard<std::mutex> lock(mutex_);
      directories_.insert(directory);
    }
    result->reset(new DiskDirectory(this, std::move(directory), std::move(*result)));
  }
  return status;
}

IOStatus Disk::DeleteFile(const std::string& name, const IOOptions& options,
                          IODebugContext* debug) {
  const std::string backup = IsFilesystemActive() ? Backup(name) : std::string();
  IOStatus status = FaultInjectionTestFS::DeleteFile(name, options, debug);
  if (status.ok()) {
    {
      std::lock_guard<std::mutex> lock(mutex_);
      written_.erase(name);
    }
    if (!backup.empty()) {
      Note(name, "delete\t" + name + "\t" + backup + "\n", backup);
    }
  } else if (!backup.empty()) {
    unlink(backup.c_str());
  }
  return status;
}

IOStatus Disk::RenameFile(const std::string& from, const std::string& to, const IOOptions& options,
                          IODebugContext* debug) {
  const std::string backup = IsFilesystemActive() ? Backup(to) : std::string();
  IOStatus status = FaultInjectionTestFS::RenameFile(from, to, options, debug);
  if (status.ok()) {
    {
      std::lock_guard<std::mutex> lock(mutex_);
      if (written_.erase(from) != 0) {
        written_.insert(to);
      }
    }
    Note(to, "rename\t" + from + "\t" + to + "\t" + backup + "\n", backup);
  } else if (!backup.empty()) {
    unlink(backup.c_str());
  }
  return status;
}

IOStatus Disk::LinkFile(const std::string& from, const std::string& to, const IOOptions& options,
                        IODebugContext* debug) {
  IOStatus status = FaultInjectionTestFS::LinkFile(from, to, options, debug);
  if (status.ok()) {
    Note(to, "create\t" + to + "\n", "");
  }
  return status;
}

}  // namespace

struct pontoon_disk {
  std::shared_ptr<Disk> disk;
};

extern "C" {

pontoon_disk* pontoon_disk_new(const char* folder) {
  return new pontoon_disk{std::make_shared<Disk>(folder)};
}

void pontoon_disk_free(pontoon_disk* disk) { delete disk; }

// The caller frees it, with `rocksdb_env_destroy`.
rocksdb_env_t* pontoon_disk_env(pontoon_disk* disk) {
  rocksdb_env_t* env = new rocksdb_env_t;
  env->rep = NewCompositeEnv(disk->disk).release();
  env->is_default = false;
  return env;
}

void pontoon_disk_power_off(pontoon_disk* disk) { disk->disk->PowerOff(); }

void pontoon_disk_set(pontoon_disk* disk, unsigned fault, bool on) { disk->disk->Set(fault, on); }

unsigned long pontoon_disk_count(pontoon_disk* disk, unsigned count) {
  return disk->disk->Counted(static_cast<Count>(count));
}

}  // extern "C"
