//! What is received once more where a stream goes on, to see whether the server still has what is stored.
//!
//! A server that was restored from an earlier state has the same system identifier and timeline, and
//! other WAL from some position on. So the last stored bytes are asked for again and compared: until they
//! have been found the same, nothing is written and nothing is claimed.

/// The stored bytes with which a stream begins.
#[derive(Debug)]
pub struct Overlap {
    stored: Vec<u8>,
    /// So many of them have been received and are the same.
    same: usize,
}

impl Overlap {
    /// The stream begins with `stored`, if it is the same log.
    pub fn new(stored: Vec<u8>) -> Overlap {
        Overlap { stored, same: 0 }
    }

    /// Whether there is still something to compare.
    pub fn is_open(&self) -> bool {
        self.same < self.stored.len()
    }

    /// Bytes received of it while it is open, which no progress counts yet; zero once it is not.
    pub fn received(&self) -> u64 {
        if self.is_open() { self.same as u64 } else { 0 }
    }

    /// All of its bytes, received or not.
    pub fn length(&self) -> u64 {
        self.stored.len() as u64
    }

    /// Takes the bytes that follow; so many of them belonged to the overlap. An error is the number of
    /// bytes of the stream that were the same.
    pub fn take(&mut self, bytes: &[u8]) -> Result<usize, u64> {
        let awaited = &self.stored[self.same..];
        let count = awaited.len().min(bytes.len());
        let (awaited, bytes) = (&awaited[..count], &bytes[..count]);
        // Slices are compared quickly; where they differ is looked for once.
        if awaited != bytes {
            let same = awaited.iter().zip(bytes).take_while(|(a, b)| a == b).count();
            return Err((self.same + same) as u64);
        }
        self.same += count;
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_compared_in_any_portions() {
        let mut overlap = Overlap::new(b"abcdef".to_vec());
        assert_eq!((overlap.take(b"ab"), overlap.received()), (Ok(2), 2));
        assert!(overlap.is_open());
        assert_eq!((overlap.take(b"cdefgh"), overlap.received()), (Ok(4), 0));
        assert!(!overlap.is_open());
        assert_eq!(overlap.take(b"xyz"), Ok(0));
    }

    #[test]
    fn the_first_byte_that_differs_is_told() {
        let mut overlap = Overlap::new(b"abcdef".to_vec());
        assert_eq!(overlap.take(b"abc"), Ok(3));
        assert_eq!(overlap.take(b"dXfg"), Err(4));
        assert!(overlap.is_open());
    }

    #[test]
    fn nothing_to_compare_is_never_open() {
        let mut overlap = Overlap::new(Vec::new());
        assert!(!overlap.is_open());
        assert_eq!(overlap.take(b"abc"), Ok(0));
    }
}
