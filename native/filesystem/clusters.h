// The clusters of a FAT or exFAT file system: the allocation table, and the chains in it.
//
// Guarantees: every cluster that a chain reaches is claimed for its owner, past the end of the file too. A chain ends where
// it comes to a cluster that another has (or it itself): both claim that one, so the files of both are shared, and however
// many entries name a chain, each cluster is followed once.
#pragma once
#include <cstdint>
#include <vector>

#include "core/status.h"
#include "filesystem/reading.h"

namespace understudy::filesystem {

struct ClusterGeometry {
  int entry_bits = 0;           // 12, 16; 28: of 32 (FAT32); 32 (exFAT)
  uint64_t table_offset = 0, table_bytes = 0;  // of the first copy
  uint32_t tables = 1;          // copies, one behind the other: they must say the same
  uint64_t cluster_bytes = 0;
  uint64_t data_offset = 0;     // of cluster 2
  uint32_t clusters = 0;        // they have the numbers [2, clusters + 2)
  bool holds(uint64_t cluster) const { return cluster >= 2 && cluster - 2 < clusters; }
  uint64_t offset_of(uint64_t cluster) const { return data_offset + (cluster - 2) * cluster_bytes; }
};

struct ClusterRun {
  uint32_t start, count;
};

// What a chain was found to be.
struct Chain {
  uint64_t clusters = 0;
  uint64_t last_of_data = 0;  // the cluster that ends the data; 0: it is shorter
  bool met = false;           // it comes to a cluster that is another's
  const char *damage = nullptr;  // where it goes on cannot be told, or (met) is not followed
};

class Clusters {
 public:
  Clusters(const Space &space, Budget &budget, Claims &claims, Problems &problems, const ClusterGeometry &geometry);

  // From `first` to the end mark. The first data_clusters are claimed for `owner`, what follows for nobody. With `runs`,
  // they are appended there. Once the budget is spent, what is answered says nothing.
  Chain follow(uint64_t first, uint64_t data_clusters, uint32_t owner, std::vector<ClusterRun> *runs = nullptr);
  // The same of clusters that lie one behind the other and are not in the table (exFAT).
  Chain run(uint64_t first, uint64_t data_clusters, uint32_t owner, std::vector<ClusterRun> *runs = nullptr);

  const ClusterGeometry &geometry() const { return geometry_; }

 private:
  struct Window {
    uint64_t number = UINT64_MAX;
    std::vector<uint8_t> bytes;
  };
  const uint8_t *load(uint64_t offset);  // null: it cannot be read
  bool next(uint64_t cluster, uint64_t &value);

  const Space &space_;
  Budget &budget_;
  Claims &claims_;
  Problems &problems_;
  const ClusterGeometry geometry_;
  std::vector<Window> windows_;
  std::vector<uint8_t> other_;   // the same window of another copy
  std::vector<bool> followed_;   // by number
};

}  // namespace understudy::filesystem
