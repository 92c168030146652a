"""The supply chain: lock files of images, known vulnerabilities, bills of materials."""
