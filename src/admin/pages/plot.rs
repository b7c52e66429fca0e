//! Small plots of the last 24 hours, drawn here: no script, no library, and readable as text.

use std::time::SystemTime;

use maud::{Markup, html};

use crate::admin::history::{PARTS, SPAN};
use crate::mail::rfc3339;

const BAR: usize = 3;
const HEIGHT: u64 = 56;

/// Bars, one for each quarter of an hour. `say` says a value in words.
pub(super) fn plot(
    id: &str,
    title: &str,
    parts: &[Option<u64>],
    now: SystemTime,
    say: impl Fn(u64) -> String,
) -> Markup {
    let most = parts.iter().copied().enumerate().rev();
    let most = most.filter_map(|(at, value)| Some((value?, at))).max();
    let words = match most {
        None => "nothing is known yet".to_owned(),
        Some((0, _)) => "none".to_owned(),
        Some((most, at)) => format!(
            "at most {}, between {} and {} UTC",
            say(most),
            clock(at, now),
            clock(at + 1, now)
        ),
    };
    let scale = most.map_or(1, |(most, _)| most).max(1);
    html! {
        figure.plot {
            figcaption id=(id) { strong { (title) } " " span { (words) } }
            svg role="img" aria-labelledby=(id) viewBox={ "0 0 " (PARTS * BAR) " " (HEIGHT + 1) } preserveAspectRatio="none" {
                @for (at, value) in parts.iter().enumerate() {
                    @match value {
                        // Where nothing is known there is no base line either.
                        None => {}
                        Some(value) => {
                            // What is not nothing can be seen.
                            @let height = (value * HEIGHT).div_ceil(scale);
                            rect.base x=(at * BAR) y=(HEIGHT) width=(BAR) height="1" {}
                            @if height > 0 {
                                rect.bar x=(at * BAR) y=(HEIGHT - height) width=(BAR - 1) height=(height) {}
                            }
                        }
                    }
                }
            }
            div.axis aria-hidden="true" {
                @for at in [0, PARTS / 2, PARTS] { span { (clock(at, now)) " UTC" } }
             }
        }
    }
}

/// The time at which a part begins.
fn clock(at: usize, now: SystemTime) -> String {
    let ago = SPAN / PARTS as u32 * u32::try_from(PARTS - at).unwrap_or(0);
    let text = rfc3339(now.checked_sub(ago).unwrap_or(now));
    text.get(11..16).unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_plot_says_its_peak_and_shows_what_is_little() {
        let mut parts = vec![None; PARTS];
        parts[95] = Some(1);
        parts[94] = Some(1000);
        parts[93] = Some(0);
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_795_491_141);
        let drawn = plot("p", "Mail", &parts, now, |n| n.to_string()).into_string();
        assert!(
            drawn.contains("at most 1000, between 03:02 and 03:17 UTC"),
            "{drawn}"
        );
        assert_eq!(drawn.matches("class=\"bar\"").count(), 2, "{drawn}");
        assert_eq!(drawn.matches("class=\"base\"").count(), 3, "{drawn}");
        assert!(
            drawn.contains("y=\"55\" width=\"2\" height=\"1\""),
            "{drawn}"
        );
        let drawn = plot("p", "Mail", &[None; PARTS], now, |n| n.to_string()).into_string();
        assert!(drawn.contains("nothing is known yet"), "{drawn}");
    }
}
