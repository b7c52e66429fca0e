//! Sizes in the format for people.

/// Formats a size in a suitable unit: `512 bytes`, `20 KiB`, `9.8 MiB`.
pub fn format_size(bytes: u64) -> String {
    const UNITS: [(u32, &str); 3] = [(10, "KiB"), (20, "MiB"), (30, "GiB")];
    let mut units = UNITS.iter().rev();
    let Some((bits, unit)) = units.find(|(bits, _)| bytes >> bits > 0) else {
        return format!("{bytes} bytes");
    };
    let whole = bytes >> bits;
    // Rounded down, so that a size just below a limit does not look like the limit.
    let tenth = ((bytes - (whole << bits)) * 10) >> bits;
    match tenth {
        0 => format!("{whole} {unit}"),
        tenth => format!("{whole}.{tenth} {unit}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_short() {
        for (bytes, shown) in [
            (0, "0 bytes"),
            (1023, "1023 bytes"),
            (1024, "1 KiB"),
            (10_240_000, "9.7 MiB"),
            (5 << 20, "5 MiB"),
            (u64::MAX, "17179869183.9 GiB"),
        ] {
            assert_eq!(format_size(bytes), shown);
        }
    }
}
