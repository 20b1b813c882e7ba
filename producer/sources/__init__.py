"""Where images come from: directories, tar files, object stores, a watched directory."""
