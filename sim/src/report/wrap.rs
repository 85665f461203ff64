//! Breaking lines at the width of the terminal.

/// Columns that a line takes, without its colours.
fn columns(text: &str) -> usize {
    console::measure_text_width(text)
}

/// `text` in lines of at most `width` columns, each ended; the first begins with `first`, the others with `rest`. A word longer
/// than a line stays whole: paths and commands must.
pub(crate) fn wrap(text: &str, first: &str, rest: &str, width: usize) -> String {
    let mut wrapped = first.to_owned();
    let mut used = columns(first);
    let mut fresh = true;
    for word in text.split_whitespace() {
        let length = columns(word);
        if !fresh && used + 1 + length > width {
            wrapped.push('\n');
            wrapped.push_str(rest);
            used = columns(rest);
            fresh = true;
        }
        if !fresh {
            wrapped.push(' ');
            used += 1;
        }
        wrapped.push_str(word);
        used += length;
        fresh = false;
    }
    wrapped.push('\n');
    wrapped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_end_before_the_width_and_words_stay_whole() {
        let text = "nobody can move but averyveryverylongword here";
        assert_eq!(
            wrap(text, "* ", "  ", 16),
            "* nobody can\n  move but\n  averyveryverylongword\n  here\n"
        );
        assert_eq!(wrap("", "", "  ", 16), "\n");
    }

    #[test]
    fn colours_take_no_room_and_neither_do_bytes() {
        assert_eq!(wrap("\u{1b}[1mab\u{1b}[0m → cd", "", "", 7), "\u{1b}[1mab\u{1b}[0m → cd\n");
    }
}
