//! Lookups in a map of any kind.

use std::hash::{Hash, Hasher};
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwapOption;
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::include::Includes;
use super::ldap::LdapTable;
use super::name::{MapKind, MapName};
use super::table::{Table, dump, find_program};
use super::text::{alias_entries, map_entries};
use super::watched::{WatchedFile, read_text};

/// Parameters for opening maps.
pub(super) struct MapOpener<'a> {
    pub(super) postmap: &'a std::path::Path,
    pub(super) config_directory: Option<&'a std::path::Path>,
    /// Time limit for an LDAP lookup.
    pub(super) timeout: Duration,
    pub(super) tasks: &'a TaskTracker,
    pub(super) stop: &'a CancellationToken,
    /// The included files, for alias maps.
    pub(super) includes: Option<Arc<Includes>>,
}

/// A map.
pub(super) struct Map {
    /// The name, as the settings have it.
    pub(super) name: Arc<str>,
    source: MapSource,
}

enum MapSource {
    Table(Arc<WatchedFile<Table>>),
    /// Entries that never change.
    Fixed(Table),
    Static(Arc<str>),
    Ldap {
        table: Arc<WatchedFile<Arc<LdapTable>>>,
        /// The error of the last lookup.
        problem: ArcSwapOption<String>,
    },
    Union(Vec<Map>),
    Pipe(Vec<Map>),
}

/// The status of one map.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MapStatus {
    /// The setting that names the map, such as `virtual_alias_maps`.
    pub setting: &'static str,
    /// The map, such as `hash:/etc/postfix/virtual`, or a file that an alias includes.
    pub map: String,
    /// The number of entries; `None` for a server, or if the map was never read.
    pub entries: Option<usize>,
    /// When the map was last read.
    pub read: Option<SystemTime>,
    /// The problem of an unusable map; mail is deferred meanwhile.
    pub problem: Option<String>,
}

impl Map {
    /// Opens and reads a map. Blocks. Must be called within a runtime. While a map cannot be read,
    /// every lookup is an error.
    pub(super) fn open(name: &MapName, opener: &MapOpener<'_>) -> Map {
        let source = match &name.kind {
            MapKind::Text(path) => {
                let path = path.clone();
                let load = {
                    let path = path.clone();
                    move || Ok(Table::new(map_entries(&read_text(&path)?)))
                };
                MapSource::Table(open_table(name, path, load, opener))
            }
            MapKind::Indexed {
                map_type,
                source,
                index,
            } => MapSource::Table(open_indexed(name, map_type, source, index, opener)),
            MapKind::Inline(entries) => {
                let table = Table::new(entries.iter().cloned());
                if let Some(includes) = &opener.includes {
                    includes.read_all(table.values());
                }
                MapSource::Fixed(table)
            }
            MapKind::Static(value) => {
                if let Some(includes) = &opener.includes {
                    includes.read_all(std::iter::once(value.as_str()));
                }
                MapSource::Static(Arc::from(value.as_str()))
            }
            MapKind::Ldap(path) => {
                let (file, timeout) = (path.clone(), opener.timeout);
                let load = move || LdapTable::read(&file, timeout).map(Arc::new);
                let table = WatchedFile::open(name.to_string(), path.clone(), load);
                follow(&table, opener);
                MapSource::Ldap {
                    table,
                    problem: ArcSwapOption::empty(),
                }
            }
            MapKind::Union(all) => {
                MapSource::Union(all.iter().map(|n| Map::open(n, opener)).collect())
            }
            MapKind::Pipe(all) => {
                MapSource::Pipe(all.iter().map(|n| Map::open(n, opener)).collect())
            }
        };
        Map {
            name: Arc::from(name.to_string()),
            source,
        }
    }

    /// Returns the value of a key, which must be folded.
    pub(super) async fn get(&self, key: &str) -> Result<Option<Arc<str>>, String> {
        match &self.source {
            MapSource::Table(table) => table.with(|content| content.value.get(key)),
            MapSource::Fixed(table) => Ok(table.get(key)),
            MapSource::Static(value) => Ok(Some(Arc::clone(value))),
            MapSource::Ldap { table, problem } => {
                let table = Arc::clone(&table.content()?.value);
                let answer = table.look_up(key).await;
                record_problem(problem, answer.as_ref().err());
                Ok(answer?.map(Arc::from))
            }
            MapSource::Union(all) => {
                let mut joined: Option<String> = None;
                for map in all {
                    if let Some(value) = get_boxed(map, key).await? {
                        match joined.as_mut() {
                            Some(joined) => {
                                joined.push(',');
                                joined.push_str(&value);
                            }
                            None => joined = Some(value.to_string()),
                        }
                    }
                }
                Ok(joined.map(Arc::from))
            }
            MapSource::Pipe(all) => {
                let mut value: Arc<str> = Arc::from(key);
                for map in all {
                    let key = super::tokens::fold(&value).into_owned();
                    match get_boxed(map, &key).await? {
                        Some(next) => value = next,
                        None => return Ok(None),
                    }
                }
                Ok(Some(value))
            }
        }
    }

    /// Whether lookups use the network.
    pub(super) fn is_remote(&self) -> bool {
        match &self.source {
            MapSource::Table(_) | MapSource::Fixed(_) | MapSource::Static(_) => false,
            MapSource::Ldap { .. } => true,
            MapSource::Union(all) | MapSource::Pipe(all) => all.iter().any(Map::is_remote),
        }
    }

    /// Adds the load time of each file of this map.
    pub(super) fn add_version(&self, to: &mut impl Hasher) {
        match &self.source {
            MapSource::Table(table) => table.read_at().hash(to),
            MapSource::Fixed(_) | MapSource::Static(_) => {}
            MapSource::Ldap { table, .. } => table.read_at().hash(to),
            MapSource::Union(all) | MapSource::Pipe(all) => {
                all.iter().for_each(|map| map.add_version(to));
            }
        }
    }

    /// Adds the status of this map.
    pub(super) fn describe(&self, setting: &'static str, into: &mut Vec<MapStatus>) {
        let status = |entries, read, problem| MapStatus {
            setting,
            map: self.name.to_string(),
            entries,
            read,
            problem,
        };
        into.push(match &self.source {
            MapSource::Table(table) => match table.content() {
                Ok(content) => status(Some(content.value.len()), Some(content.read), None),
                Err(reason) => status(None, None, Some(reason)),
            },
            MapSource::Fixed(table) => status(Some(table.len()), None, None),
            MapSource::Static(_) => status(Some(1), None, None),
            MapSource::Ldap { table, problem } => match table.content() {
                Ok(content) => {
                    let problem = problem.load_full().map(|reason| reason.to_string());
                    status(None, Some(content.read), problem)
                }
                Err(reason) => status(None, None, Some(reason)),
            },
            MapSource::Union(all) | MapSource::Pipe(all) => {
                return all.iter().for_each(|map| map.describe(setting, into));
            }
        });
    }
}

fn record_problem(problem: &ArcSwapOption<String>, reason: Option<&String>) {
    let before = problem.load();
    if before.as_deref() != reason {
        problem.store(reason.cloned().map(Arc::new));
    }
}

type BoxedLookup<'a> = Pin<Box<dyn Future<Output = Result<Option<Arc<str>>, String>> + Send + 'a>>;

fn get_boxed<'a>(map: &'a Map, key: &'a str) -> BoxedLookup<'a> {
    Box::pin(map.get(key))
}

fn follow<T: Send + Sync + 'static>(watched: &Arc<WatchedFile<T>>, opener: &MapOpener<'_>) {
    let follow = Arc::clone(watched).follow(opener.stop.clone());
    opener.tasks.spawn_on(follow, &Handle::current());
}

fn open_table(
    name: &MapName,
    path: PathBuf,
    load: impl Fn() -> Result<Table, String> + Send + Sync + 'static,
    opener: &MapOpener<'_>,
) -> Arc<WatchedFile<Table>> {
    let includes = opener.includes.clone();
    let load = move || {
        let table = load()?;
        if let Some(includes) = &includes {
            includes.read_all(table.values());
        }
        Ok(table)
    };
    let table = WatchedFile::open(name.to_string(), path, load);
    follow(&table, opener);
    table
}

/// Opens an indexed file, which the MTA uses, by dumping it. Without postmap(1), the text file is
/// read.
fn open_indexed(
    name: &MapName,
    map_type: &str,
    source: &std::path::Path,
    index: &std::path::Path,
    opener: &MapOpener<'_>,
) -> Arc<WatchedFile<Table>> {
    let source = source.to_owned();
    let Some(postmap) = find_program(opener.postmap) else {
        tracing::warn!(
            map = %name,
            "{} not found: reading {} instead of the MTA's indexed file",
            opener.postmap.display(),
            source.display()
        );
        let is_aliases = opener.includes.is_some();
        let path = source.clone();
        let load = move || {
            let text = read_text(&source)?;
            Ok(Table::new(match is_aliases {
                true => alias_entries(&text),
                false => map_entries(&text),
            }))
        };
        return open_table(name, path, load, opener);
    };
    let directory = opener.config_directory.map(PathBuf::from);
    let map_type = map_type.to_owned();
    let load = move || dump(&postmap, directory.as_deref(), &map_type, &source);
    open_table(name, index.to_owned(), load, opener)
}
