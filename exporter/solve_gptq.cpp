#include <map>

#include "exporter/block_work.h"
#include "exporter/interrupted.h"
#include "quant/gptq.h"

namespace qlora::exporter {

namespace {

/// Rounds the linears that read at one site.
void solve_site(BlockWork& block, Site site, const quant::LinearStatistics& statistics,
                const quant::GptqOptions& options) {
  std::map<int64_t, quant::GptqFactor> factors;  // by group size: it decides the order
  for (LinearWork* work : block.at(site)) {
    check_stop_request();
    const Stopwatch watch;
    if (!work->grid) {
      block.place_plain(*work);
      continue;
    }
    const int64_t group = work->grid->group_size;
    auto factor = factors.find(group);
    if (factor == factors.end()) {
      factor = factors.emplace(group, quant::factor_gptq(statistics, *work->grid, options)).first;
    }
    const quant::GptqTensor solved =
        quant::quantize_gptq(work->weight, statistics, factor->second, *work->grid, options);
    work->report.objective_rtn = solved.report.error_rtn;
    work->report.objective = solved.report.error;
    work->report.damp_percent = solved.report.damp_percent;
    work->report.damp_increases = solved.report.damp_increases;
    work->report.dead_columns = solved.report.dead_columns;
    work->report.fallback = solved.report.fallback;
    block.place(*work, solved.tensor);
    work->report.seconds = watch.seconds();
  }
}

}  // namespace

void solve_gptq(BlockWork& block, const ExportOptions& options, CalibrationPass& pass) {
  if (options.true_sequential) {
    for (const Site site : kSites) {
      solve_site(block, site, pass.advance(block.block, site), options.gptq);
    }
    pass.finish_block(block.block);
    return;
  }
  std::vector<quant::LinearStatistics> statistics;
  for (const Site site : kSites) statistics.push_back(pass.advance(block.block, site));
  for (const Site site : kSites) {
    solve_site(block, site, statistics[static_cast<size_t>(site)], options.gptq);
  }
  pass.run_block(block.block);
}

}  // namespace qlora::exporter
