#pragma once

#include <array>
#include <cstdint>
#include <string_view>

namespace baton {

// Every metric there is; what each one means stands in metric_catalog.h, in the same order.
enum class Metric : uint8_t {
  kBuildInfo,
  kRequests,
  kRequestsInFlight,
  kQueueDepth,
  kQueueWait,
  kTtft,
  kItl,
  kE2e,
  kClientDisconnects,
  kUnknownFields,
  kRejectedHttp,
  kTenantRequests,
  kTenantTokens,
  kPromptTokens,
  kGenerationTokens,
  kRequestPromptTokens,
  kRequestGenerationTokens,
  kPrefill,
  kKvTransferBytes,
  kKvTransfer,
  kKvTransferExposed,
  kKvTransferFailures,
  kKvLinkRate,
  kKvLinkLatency,
  kDecisions,
  kWorkerState,
  kWorkersLost,
  kSteps,
  kStepSeconds,
  kHostSeconds,
  kPlanningSeconds,
  kLinkSeconds,
  kActiveSeconds,
  kRankSteps,
  kRankLayers,
  kRankBusySeconds,
  kRankLinkSeconds,
  kRankKvStreams,
  kRankKvReceivedBytes,
  kRankKvRefusedPieces,
  kStepPredictedSeconds,
  kStepPredictionError,
  kStepCoefficient,
  kChunkTokens,
  kBatchSize,
  kEnginePrefillTokens,
  kEngineDecodeTokens,
  kPreemptions,
  kKvBlocks,
  kKvEvictions,
  kKvHostBlocks,
  kKvHostCopiedBlocks,
  kKvHostCopiedBytes,
  kKvHostLostBlocks,
  kKvHostHitTokens,
  kKvHostWaitSeconds,
  kKvHostFetchesFailed,
  kPrefixQueryTokens,
  kPrefixHitTokens,
  kTransfersOpen,
  kSequencesRunning,
  kSequencesWaiting,
  kFencedMessages,
  kLedgerEntries,
  kRetries,
  kMoves,
  kReplayMismatches,
  kCertificateLeft,
  kCount,
};

// Which process has a metric: what workers count stands together.
enum class MetricProcess : uint8_t { kCoordinator, kWorker };
constexpr bool has_metric(MetricProcess process, Metric metric) {
  if (metric == Metric::kBuildInfo || metric == Metric::kKvBlocks || metric == Metric::kCertificateLeft)
    return true;
  const bool counted_by_workers = metric >= Metric::kSteps && metric <= Metric::kSequencesWaiting;
  return counted_by_workers == (process == MetricProcess::kWorker);
}

enum class MetricKind : uint8_t { kCounter, kGauge, kHistogram };

// Which bucket boundaries a histogram has (metrics.cc).
enum class Buckets : uint8_t { kNone, kLatency, kItl, kStep, kTokens, kBatch };

struct MetricRow {
  Metric metric;
  MetricKind kind;
  std::string_view name;
  std::string_view help;
  std::array<std::string_view, 4> labels;  // "" = unused
  Buckets buckets = Buckets::kNone;
};

}  // namespace baton
