//! The metrics recorder: Prometheus text for scrapers, and values for the pages, from one set of
//! counters.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, PoisonError, RwLock};

use metrics::{
    Counter, CounterFn, Gauge, GaugeFn, Histogram, Key, KeyName, Metadata, Recorder, SharedString,
    Unit, gauge,
};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle, PrometheusRecorder};

use Kind::{Count, Level, Summary};

/// The process's metrics.
#[derive(Clone)]
pub struct Metrics {
    prometheus: PrometheusHandle,
    values: Arc<Values>,
}

/// Returns the process's metrics and installs their recorder at the first call.
///
/// `None` if another recorder is installed: a user of the library keeps theirs.
pub fn metrics() -> Option<Metrics> {
    static METRICS: OnceLock<Option<Metrics>> = OnceLock::new();
    let install = || {
        let (recorder, metrics) = PageRecorder::new();
        metrics::set_global_recorder(recorder).ok()?;
        gauge!("copyist_build_info", "version" => env!("CARGO_PKG_VERSION")).set(1.0);
        Some(metrics)
    };
    METRICS.get_or_init(install).clone()
}

impl Metrics {
    /// Returns all metrics in Prometheus' text format.
    pub fn render(&self) -> String {
        self.prometheus.render()
    }

    /// Moves recorded values into their histograms. Must be called regularly: they pile up until
    /// then.
    pub(super) fn run_upkeep(&self) {
        self.prometheus.run_upkeep();
    }

    /// Returns the series of a counter.
    pub(super) fn counters(&self, name: &str) -> Vec<Series<u64>> {
        let all = self.values.counters.read();
        let all = all.unwrap_or_else(PoisonError::into_inner);
        let named = all.iter().filter(|(key, _)| key.name() == name);
        named
            .map(|(key, counter)| Series {
                key: key.clone(),
                value: counter.value.load(Ordering::Relaxed),
            })
            .collect()
    }

    /// Returns the series of a gauge.
    pub(super) fn gauges(&self, name: &str) -> Vec<Series<f64>> {
        let all = self.values.gauges.read();
        let all = all.unwrap_or_else(PoisonError::into_inner);
        let named = all.iter().filter(|(key, _)| key.name() == name);
        named
            .map(|(key, gauge)| Series {
                key: key.clone(),
                value: f64::from_bits(gauge.bits.load(Ordering::Relaxed)),
            })
            .collect()
    }

    /// Returns the value of a gauge without labels; `None` before it is first set.
    pub(super) fn gauge(&self, name: &str) -> Option<f64> {
        self.gauges(name).first().map(|series| series.value)
    }
}

/// One series of a metric, with its value.
pub(super) struct Series<T> {
    key: Key,
    pub(super) value: T,
}

impl<T> Series<T> {
    /// Returns the value of a label; empty without such a label.
    pub(super) fn label(&self, name: &str) -> &str {
        let mut labels = self.key.labels();
        labels
            .find(|label| label.key() == name)
            .map_or("", |label| label.value())
    }
}

/// Counters and gauges by name and labels.
#[derive(Default)]
struct Values {
    counters: RwLock<HashMap<Key, Arc<ReadableCounter>>>,
    gauges: RwLock<HashMap<Key, Arc<ReadableGauge>>>,
}

/// A Prometheus counter whose value can be read.
struct ReadableCounter {
    prometheus: Counter,
    value: AtomicU64,
}

impl CounterFn for ReadableCounter {
    fn increment(&self, value: u64) {
        self.prometheus.increment(value);
        self.value.fetch_add(value, Ordering::Relaxed);
    }

    fn absolute(&self, value: u64) {
        self.prometheus.absolute(value);
        self.value.fetch_max(value, Ordering::Relaxed);
    }
}

/// A Prometheus gauge whose value can be read.
struct ReadableGauge {
    prometheus: Gauge,
    bits: AtomicU64,
}

impl ReadableGauge {
    fn update(&self, change: impl Fn(f64) -> f64) {
        let change = |bits| Some(change(f64::from_bits(bits)).to_bits());
        // Never fails: the closure always returns a value.
        let _ = self
            .bits
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, change);
    }
}

impl GaugeFn for ReadableGauge {
    fn increment(&self, value: f64) {
        self.prometheus.increment(value);
        self.update(|old| old + value);
    }

    fn decrement(&self, value: f64) {
        self.prometheus.decrement(value);
        self.update(|old| old - value);
    }

    fn set(&self, value: f64) {
        self.prometheus.set(value);
        self.update(|_| value);
    }
}

/// Records for Prometheus and for the pages. Each event costs one look-up, here instead of in
/// Prometheus' registry.
pub(super) struct PageRecorder {
    prometheus: PrometheusRecorder,
    values: Arc<Values>,
}

impl PageRecorder {
    pub(super) fn new() -> (PageRecorder, Metrics) {
        let prometheus = PrometheusBuilder::new().build_recorder();
        let values = Arc::<Values>::default();
        let metrics = Metrics {
            prometheus: prometheus.handle(),
            values: Arc::clone(&values),
        };
        for (name, kind, help) in DESCRIPTIONS {
            let (name, help) = (KeyName::from_const_str(name), (*help).into());
            match kind {
                Count => prometheus.describe_counter(name, None, help),
                Level => prometheus.describe_gauge(name, None, help),
                Summary => prometheus.describe_histogram(name, None, help),
            }
        }
        (PageRecorder { prometheus, values }, metrics)
    }
}

/// Returns the value of a key, created if it is missing.
fn get_or_create<T>(
    all: &RwLock<HashMap<Key, Arc<T>>>,
    key: &Key,
    create: impl FnOnce() -> T,
) -> Arc<T> {
    if let Some(known) = all.read().unwrap_or_else(PoisonError::into_inner).get(key) {
        return Arc::clone(known);
    }
    let mut all = all.write().unwrap_or_else(PoisonError::into_inner);
    Arc::clone(all.entry(key.clone()).or_insert_with(|| Arc::new(create())))
}

impl Recorder for PageRecorder {
    fn describe_counter(&self, name: KeyName, unit: Option<Unit>, text: SharedString) {
        self.prometheus.describe_counter(name, unit, text);
    }

    fn describe_gauge(&self, name: KeyName, unit: Option<Unit>, text: SharedString) {
        self.prometheus.describe_gauge(name, unit, text);
    }

    fn describe_histogram(&self, name: KeyName, unit: Option<Unit>, text: SharedString) {
        self.prometheus.describe_histogram(name, unit, text);
    }

    fn register_counter(&self, key: &Key, metadata: &Metadata<'_>) -> Counter {
        let create = || ReadableCounter {
            prometheus: self.prometheus.register_counter(key, metadata),
            value: AtomicU64::new(0),
        };
        Counter::from_arc(get_or_create(&self.values.counters, key, create))
    }

    fn register_gauge(&self, key: &Key, metadata: &Metadata<'_>) -> Gauge {
        let create = || ReadableGauge {
            prometheus: self.prometheus.register_gauge(key, metadata),
            bits: AtomicU64::new(0),
        };
        Gauge::from_arc(get_or_create(&self.values.gauges, key, create))
    }

    fn register_histogram(&self, key: &Key, metadata: &Metadata<'_>) -> Histogram {
        self.prometheus.register_histogram(key, metadata)
    }
}

/// The type of a metric.
#[derive(Clone, Copy)]
enum Kind {
    Count,
    Level,
    Summary,
}

/// Every metric with its `# HELP` text; `docs/metrics.md` has the same names.
#[rustfmt::skip]
const DESCRIPTIONS: &[(&str, Kind, &str)] = &[
    ("copyist_build_info", Level, "Always 1; the label is the version."),
    ("copyist_messages_total", Count, "Messages decided, once for each of their directions."),
    ("copyist_messages_deferred_total", Count, "Messages deferred (4xx), by reason."),
    ("copyist_messages_overlooked_total", Count, "People who could not be looked up while directory.on_failure is \"accept\"."),
    ("copyist_messages_exempt_total", Count, "Messages not journaled because of an exempt object."),
    ("copyist_messages_unidentified_total", Count, "Messages from trusted or authenticated clients whose sender is not in the directory."),
    ("copyist_messages_split_total", Count, "Messages passed on in several versions with different texts."),
    ("copyist_messages_stripped_total", Count, "Messages from which external X-Copyist fields were removed."),
    ("copyist_journal_targets_elsewhere_total", Count, "Values of journal attributes outside directory.journal_domains, which got no copy."),
    ("copyist_guard_refusals_total", Count, "Recipients rejected by the journal guard (550)."),
    ("copyist_hop_limit_refusals_total", Count, "Messages rejected as mail loops (limits.hops)."),
    ("copyist_limit_refusals_total", Count, "Messages and recipients beyond a limit."),
    ("copyist_texts_total", Count, "Messages that need a text, by result."),
    ("copyist_text_failures_total", Count, "Messages that a text could not be added to, by reason."),
    ("copyist_seals_refused_total", Count, "Messages that look like own reports but have no valid seal, by reason."),
    ("copyist_reports_altered_total", Count, "Own reports accepted although they were changed in transit."),
    ("copyist_reports_again_total", Count, "Own reports seen again after the relay accepted them."),
    ("copyist_bounces_total", Count, "Bounces received for delivered reports."),
    ("copyist_notices_total", Count, "Other delivery notices received for reports, by kind."),
    ("copyist_configuration_refused", Level, "1 if the last reload failed and the previous configuration is active."),
    ("copyist_memory_in_flight_bytes", Level, "Memory used by messages in transit, in bytes (limits.memory)."),
    ("copyist_milter_connections", Level, "Open milter connections."),
    ("copyist_milter_connections_refused_total", Count, "Milter connections refused, by reason."),
    ("copyist_milter_connections_broken_total", Count, "Milter connections that ended unexpectedly."),
    ("copyist_smtp_connections", Level, "Open SMTP connections."),
    ("copyist_smtp_connections_refused_total", Count, "SMTP connections refused, by reason."),
    ("copyist_smtp_connections_broken_total", Count, "SMTP connections that ended before QUIT, by reason."),
    ("copyist_smtp_messages_total", Count, "Messages passed to the next hop, by result."),
    ("copyist_smtp_refusals_total", Count, "4xx and 5xx replies of the SMTP listeners, by code."),
    ("copyist_next_hop_failures_total", Count, "Failed connections to the next hop."),
    ("copyist_bare_line_breaks_total", Count, "Messages with a bare CR or LF."),
    ("copyist_admin_requests_refused_total", Count, "Requests refused by the admin pages, by reason."),
    ("copyist_admin_connections_refused_total", Count, "Connections refused by the admin listener."),
    ("copyist_directory_up", Level, "1 while a directory server answers."),
    ("copyist_directory_watch_up", Level, "1 while the change feed is connected; otherwise changes take effect after directory.cache.ttl."),
    ("copyist_directory_lookups_total", Count, "Address lookups, by result."),
    ("copyist_directory_search_seconds", Summary, "Duration of LDAP searches, in seconds."),
    ("copyist_directory_connect_failures_total", Count, "Failed connections to directory servers."),
    ("copyist_directory_no_longer_journaled_total", Count, "Objects whose journal attribute lost its value in a change."),
    ("copyist_directory_changes_total", Count, "Changes received from the change feed."),
    ("copyist_directory_watch_resets_total", Count, "Change feed restarts that dropped the whole cache."),
    ("copyist_directory_referrals_total", Count, "Referrals received; they are not followed."),
    ("copyist_directory_shared_addresses_total", Count, "Lookups of addresses that belong to several objects."),
    ("copyist_directory_members_without_address_total", Count, "Members of journal groups without an address."),
    ("copyist_certificate_expires_seconds", Level, "Expiry of a server's certificate, in seconds since 1970."),
    ("copyist_spool_items", Level, "Queued items."),
    ("copyist_spool_oldest_seconds", Level, "Age of the oldest queued item, in seconds; 0 if nothing is queued."),
    ("copyist_spool_dead_letters", Level, "Dead letters, kept until an operator decides."),
    ("copyist_spool_on_hold", Level, "Items on hold."),
    ("copyist_spool_free_bytes", Level, "Free space on the file system of state_dir, in bytes."),
    ("copyist_spool_free_inodes", Level, "Free inodes on the file system of state_dir."),
    ("copyist_spool_low", Level, "1 if space or inodes are below their minimum, so that mail is deferred."),
    ("copyist_spool_commits_total", Count, "Durable transactions."),
    ("copyist_spool_group_size", Summary, "Writes in one durable transaction."),
    ("copyist_relay_up", Level, "1 while the relay is reachable."),
    ("copyist_relay_refuses_all", Level, "1 while the relay rejects everything with 5.7.1, so that reports stay queued."),
    ("copyist_relay_takes_nothing", Level, "1 while the relay is reachable but accepts no report."),
    ("copyist_unencrypted_connections_total", Count, "Plain text connections to servers that offer TLS, because the handshake failed."),
    ("copyist_deliveries_total", Count, "Delivery attempts for each target, by outcome."),
    ("copyist_ndrs_total", Count, "Non-delivery reports queued."),
    ("copyist_ndr_digests_total", Count, "NDR digests queued."),
    ("copyist_reports_collected_total", Count, "Reports kept as dead letters because they look like a mail loop."),
    ("copyist_refusals_collected_total", Count, "Rejections waiting for an NDR digest."),
    ("copyist_dead_letters_total", Count, "Targets that became dead letters."),
];

#[cfg(test)]
mod tests {
    use metrics::{counter, gauge, with_local_recorder};

    use super::*;

    #[test]
    fn recorded_values_can_be_read_and_scraped() {
        let (recorder, metrics) = PageRecorder::new();
        with_local_recorder(&recorder, || {
            counter!("copyist_messages_deferred_total", "why" => "spool").increment(2);
            counter!("copyist_messages_deferred_total", "why" => "spool").increment(1);
            counter!("copyist_messages_deferred_total", "why" => "text").increment(1);
            gauge!("copyist_smtp_connections").increment(2.0);
            gauge!("copyist_smtp_connections").decrement(1.0);
            gauge!("copyist_relay_up").set(0.0);
        });
        let mut deferred: Vec<_> = metrics
            .counters("copyist_messages_deferred_total")
            .into_iter()
            .map(|series| (series.label("why").to_owned(), series.value))
            .collect();
        deferred.sort();
        assert_eq!(deferred, [("spool".into(), 3), ("text".into(), 1)]);
        assert_eq!(metrics.gauge("copyist_smtp_connections"), Some(1.0));
        assert_eq!(metrics.gauge("copyist_relay_up"), Some(0.0));
        assert_eq!(metrics.gauge("copyist_directory_up"), None);
        let text = metrics.render();
        for line in [
            "copyist_messages_deferred_total{why=\"spool\"} 3",
            "# HELP copyist_messages_deferred_total Messages deferred (4xx), by reason.",
            "# TYPE copyist_smtp_connections gauge",
        ] {
            assert!(text.contains(line), "{line} is missing in\n{text}");
        }
    }
}
