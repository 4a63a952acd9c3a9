"""What every room uses: errors, files, events, devices, the Hub, pictures."""
