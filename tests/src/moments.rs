//! Single moments of collections, each made on purpose.
