//! Small SVG plots of the last 24 hours, without scripts, and readable as text.

use std::time::SystemTime;

use maud::{Markup, html};

use crate::admin::history::{PARTS, SPAN};
use crate::mail::rfc3339;

const BAR: usize = 3;
const HEIGHT: u64 = 56;

/// Renders bars, one for each quarter of an hour. `say` formats a value.
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
        None => "no data yet".to_owned(),
        Some((0, _)) => "none".to_owned(),
        Some((most, at)) => format!(
            "peak {}, between {} and {} UTC",
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
                        // Without data there is no base line either.
                        None => {}
                        Some(value) => {
                            // Small values stay visible.
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

/// Returns the start of a part as HH:MM.
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
    fn a_plot_names_its_peak_and_shows_small_values() {
        let mut parts = vec![None; PARTS];
        parts[95] = Some(1);
        parts[94] = Some(1000);
        parts[93] = Some(0);
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_795_491_141);
        let drawn = plot("p", "Mail", &parts, now, |n| n.to_string()).into_string();
        assert!(
            drawn.contains("peak 1000, between 03:02 and 03:17 UTC"),
            "{drawn}"
        );
        assert_eq!(drawn.matches("class=\"bar\"").count(), 2, "{drawn}");
        assert_eq!(drawn.matches("class=\"base\"").count(), 3, "{drawn}");
        assert!(
            drawn.contains("y=\"55\" width=\"2\" height=\"1\""),
            "{drawn}"
        );
        let drawn = plot("p", "Mail", &[None; PARTS], now, |n| n.to_string()).into_string();
        assert!(drawn.contains("no data yet"), "{drawn}");
    }
}
