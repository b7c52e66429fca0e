//! The milter door: Postfix and Sendmail.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::SystemTime;

use arc_swap::ArcSwap;
use metrics::{counter, gauge};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{debug, warn};

use crate::mail::{Address, AddressError, Client, Enhanced, Envelope, Message, Recipient, Reply};
use crate::milter::{self, Answer, Handler, Limits, Outcome, Path, Transaction, Wants};
use crate::pipeline::{Pipeline, Verdict};
use crate::policy::{Admission, Guard};

use super::Listener;
